//! How weights get to the device: read from their source once, straight into memory that the device or its bus reads.
//!
//! Weights are never held twice in the processor's memory: [`Memory::upload`] hands out pieces of the destination (on
//! unified memory: of the buffer itself, mapped at creation and never again) or of a small ring of staging buffers
//! (discrete: a piece is filled while the ones before it are copied over the bus).
//!
//! Not `Queue::write_buffer`: it allocates a staging buffer of the tensor's size for each call, and when that fails
//! the device is lost instead of an error reported.

use super::memory::{COPY_ALIGNMENT, STORAGE, raw_buffer, round_up};
use super::{GpuBuffer, GpuError, Memory};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgpu::BufferUsages;

const N_STAGES: usize = 3;

/// The error of a [`Fill`]: whatever its source of bytes reports.
pub type FillError = Box<dyn std::error::Error + Send + Sync>;
/// Writes the tensor's bytes from the given offset on into the slice, all of it. Called with consecutive pieces in
/// ascending order; a piece may lie in write-combining memory, so it is to be written and not read.
pub type Fill<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), FillError> + 'a;

/// The staging buffers, made one by one as uploads need them.
#[derive(Debug, Default)]
pub(super) struct Ring {
    stages: Vec<Stage>,
    next: usize,
}

/// A staging buffer. It is mapped unless it is `flying`; `mapped` tells that it is so again after a flight.
#[derive(Debug)]
struct Stage {
    raw: wgpu::Buffer,
    mapped: Arc<AtomicBool>,
    flying: Option<wgpu::SubmissionIndex>,
}

impl Memory {
    /// Makes a storage buffer of `size_bytes` and fills it: see [`Fill`] for what `fill` has to do. The bytes are on
    /// the device before any later submission runs.
    ///
    /// # Errors
    /// As [`Memory::allocate`], and [`GpuError::Fill`] with the error of `fill`.
    pub fn upload(&mut self, what: &str, size_bytes: u64, fill: &mut Fill) -> Result<GpuBuffer, GpuError> {
        if self.gpu.is_unified() && self.gpu.info().mappable_storage {
            self.upload_in_place(what, size_bytes, fill)
        } else {
            self.upload_staged(what, size_bytes, fill)
        }
    }

    /// Makes a storage buffer with the bytes of another, copied on the device.
    ///
    /// # Errors
    /// As [`Memory::allocate`].
    pub fn copy(&self, what: &str, of: &GpuBuffer) -> Result<GpuBuffer, GpuError> {
        let buffer = self.make(what, of.size_bytes(), STORAGE, false)?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(of.raw(), 0, buffer.raw(), 0, of.size_bytes());
        self.gpu.queue().submit([encoder.finish()]);
        Ok(buffer)
    }

    /// Waits for the copies of all uploads and frees the staging buffers. To be called once a model is loaded.
    ///
    /// # Errors
    /// As [`Gpu::check`](super::Gpu::check).
    pub fn finish_uploads(&mut self) -> Result<(), GpuError> {
        self.ring = Ring::default();
        self.gpu.wait_idle()
    }

    fn upload_in_place(&mut self, what: &str, size_bytes: u64, fill: &mut Fill) -> Result<GpuBuffer, GpuError> {
        let buffer = self.make(what, size_bytes, STORAGE | BufferUsages::MAP_WRITE, true)?;
        let mut view = mapped(what, buffer.raw())?;
        for at in (0..size_bytes).step_by(self.piece_bytes as usize) {
            let n = u64::min(self.piece_bytes, size_bytes - at);
            fill(at, piece(&mut view, at, n)).map_err(|source| GpuError::Fill { what: what.to_owned(), source })?;
        }
        drop(view);
        buffer.raw().unmap();
        Ok(buffer)
    }

    fn upload_staged(&mut self, what: &str, size_bytes: u64, fill: &mut Fill) -> Result<GpuBuffer, GpuError> {
        let buffer = self.make(what, size_bytes, STORAGE, false)?;
        for at in (0..size_bytes).step_by(self.piece_bytes as usize) {
            let n = u64::min(self.piece_bytes, size_bytes - at);
            let ix = self.free_stage()?;
            let stage = &mut self.ring.stages[ix];
            let mut view = mapped(what, &stage.raw)?;
            fill(at, piece(&mut view, 0, n)).map_err(|source| GpuError::Fill { what: what.to_owned(), source })?;
            drop(view);
            stage.raw.unmap();
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&stage.raw, 0, buffer.raw(), at, round_up(n, COPY_ALIGNMENT));
            let index = self.gpu.queue().submit([encoder.finish()]);
            let mapped = stage.mapped.clone();
            stage.raw.map_async(wgpu::MapMode::Write, .., move |done| mapped.store(done.is_ok(), Ordering::Release));
            stage.flying = Some(index);
        }
        self.gpu.check()?;
        Ok(buffer)
    }

    /// The next stage of the ring, mapped: made if the ring isn't full yet, else waited for.
    fn free_stage(&mut self) -> Result<usize, GpuError> {
        if self.ring.stages.len() < N_STAGES {
            let usage = BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC;
            let raw = raw_buffer(&self.gpu, "upload staging", self.piece_bytes, usage, true)?;
            self.ring.stages.push(Stage { raw, mapped: Arc::new(AtomicBool::new(false)), flying: None });
            return Ok(self.ring.stages.len() - 1);
        }
        let ix = self.ring.next;
        self.ring.next = (ix + 1) % N_STAGES;
        let stage = &mut self.ring.stages[ix];
        if let Some(index) = stage.flying.take() {
            let waited = self.gpu.device().poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None });
            self.gpu.check()?;
            let failed = |reason: String| GpuError::Buffer { what: "upload staging".to_owned(), reason };
            waited.map_err(|e| failed(e.to_string()))?;
            if !stage.mapped.swap(false, Ordering::AcqRel) {
                return Err(failed("it could not be mapped again".to_owned()));
            }
        }
        Ok(ix)
    }
}

fn mapped(what: &str, buffer: &wgpu::Buffer) -> Result<wgpu::BufferViewMut, GpuError> {
    let failed = |e: wgpu::MapRangeError| GpuError::Buffer { what: what.to_owned(), reason: e.to_string() };
    buffer.get_mapped_range_mut(..).map_err(failed)
}

/// Bytes `at .. at + n` of a mapped view as a slice.
#[allow(unsafe_code)]
fn piece(view: &mut wgpu::BufferViewMut, at: u64, n: u64) -> &mut [u8] {
    let mut range = view.slice(at as usize..(at + n) as usize);
    let ptr = range.as_raw_ptr().as_ptr();
    // SAFETY: `range` is a bounds-checked part of a live mapping that wgpu has initialized (with zeros or by an
    // earlier write), and `view` stays mutably borrowed as long as the slice lives, so nothing else refers to it.
    unsafe { &mut *ptr }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, MemoryOptions, ReadBack, testing};
    use std::time::Duration;

    fn read(gpu: &Gpu, memory: &Memory, buffer: &GpuBuffer) -> Vec<u8> {
        let mut ring = ReadBack::new(memory, buffer.size_bytes(), 1).unwrap();
        let encoder = gpu.device().create_command_encoder(&Default::default());
        ring.submit(gpu, encoder, 0, &[(buffer.raw(), 0, buffer.size_bytes())]).unwrap();
        let mut bytes = Vec::new();
        ring.wait(gpu, &mut bytes, Duration::from_secs(20)).unwrap();
        bytes
    }

    fn byte(at: u64) -> u8 {
        (at % 251) as u8
    }

    /// Both ways put the same bytes at the same places, whatever the size is modulo the piece and modulo 4.
    #[test]
    fn uploads_arrive_on_both_ways() {
        for unified in [true, false] {
            let Some(gpu) = testing::gpu_with(unified) else {
                return;
            };
            let options = MemoryOptions { piece_bytes: 4096, ..Default::default() };
            let mut memory = Memory::new(&gpu, &options);
            for size in [1, 4, 4095, 4096, 4100, 5 * 4096 + 6] {
                let mut expected_at = 0;
                let fill = &mut |at: u64, dst: &mut [u8]| {
                    assert_eq!(at, expected_at);
                    assert!(dst.len() <= 4096);
                    expected_at += dst.len() as u64;
                    dst.iter_mut().zip(at..).for_each(|(d, at)| *d = byte(at));
                    Ok(())
                };
                let buffer = memory.upload("w", size, fill).unwrap();
                assert_eq!(expected_at, size);
                for buffer in [&buffer, &memory.copy("a copy", &buffer).unwrap()] {
                    let bytes = read(&gpu, &memory, buffer);
                    assert!((0..size).all(|at| bytes[at as usize] == byte(at)), "unified {unified}, {size} bytes");
                }
            }
            memory.finish_uploads().unwrap();
            assert_eq!(memory.in_use().active_bytes, 0);
            assert!(memory.in_use().peak_bytes >= 5 * 4096 + 6);
            gpu.check().unwrap();
        }
    }

    #[test]
    fn a_failing_source_is_an_error_and_leaves_the_ring_usable() {
        for unified in [true, false] {
            let Some(gpu) = testing::gpu_with(unified) else {
                return;
            };
            let mut memory = Memory::new(&gpu, &MemoryOptions { piece_bytes: 4096, ..Default::default() });
            for good_pieces in [0, 1, 4] {
                let fill = &mut |at: u64, _: &mut [u8]| match at / 4096 < good_pieces {
                    true => Ok(()),
                    false => Err("the file ended".into()),
                };
                let error = memory.upload("model.norm", 6 * 4096, fill).map(drop).unwrap_err();
                assert_eq!(error.to_string(), "model.norm: the file ended");
            }
            let buffer = memory
                .upload("w", 8192, &mut |_, dst| {
                    dst.fill(7);
                    Ok(())
                })
                .unwrap();
            assert!(read(&gpu, &memory, &buffer).iter().all(|&b| b == 7));
            gpu.check().unwrap();
        }
    }
}
