//! Bytes from the device to the processor, read a step or two late.
//!
//! A [`ReadBack`] is a ring of mapped buffers, in the order of submission. [`ReadBack::submit`] appends the copies to a
//! step's commands, so a step and its read-back are one submission; [`ReadBack::poll`] never blocks.

use super::{Gpu, GpuBuffer, GpuError, Memory};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use wgpu::BufferUsages;

/// How long [`ReadBack::wait`] polls at full speed. After that it sleeps between polls: the device's own wait may
/// sleep a whole millisecond (Metal), and a software rasterizer needs the processor.
const SPIN: Duration = Duration::from_micros(100);
const FIRST_SLEEP: Duration = Duration::from_micros(20);
const LONGEST_SLEEP: Duration = Duration::from_micros(500);

const WAITING: u8 = 0;
const READY: u8 = 1;
const FAILED: u8 = 2;

/// A ring of read-back slots.
#[derive(Debug)]
pub struct ReadBack {
    slots: Vec<Slot>,
    /// Slots in flight, oldest first.
    flying: VecDeque<usize>,
    /// Slots that are not in flight.
    free: Vec<usize>,
    slot_bytes: u64,
}

#[derive(Debug)]
struct Slot {
    buffer: GpuBuffer,
    state: Arc<AtomicU8>,
    tag: u64,
    used_bytes: u64,
}

impl ReadBack {
    /// A ring of `n_slots` buffers of `slot_bytes` each; one slot a step in flight.
    ///
    /// # Errors
    /// As [`Memory::allocate`].
    pub fn new(memory: &Memory, slot_bytes: u64, n_slots: usize) -> Result<ReadBack, GpuError> {
        let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let slot = |_| {
            let buffer = memory.allocate("read-back", slot_bytes, usage)?;
            Ok(Slot { buffer, state: Arc::new(AtomicU8::new(WAITING)), tag: 0, used_bytes: 0 })
        };
        let slots = (0..n_slots).map(slot).collect::<Result<Vec<_>, GpuError>>()?;
        let slot_bytes = slots.first().map_or(0, |slot| slot.buffer.size_bytes());
        let (flying, free) = (VecDeque::with_capacity(n_slots), (0..n_slots).rev().collect());
        Ok(ReadBack { slots, flying, free, slot_bytes })
    }

    /// Steps whose bytes have not been read yet.
    pub fn n_in_flight(&self) -> usize {
        self.flying.len()
    }

    /// Appends copies of `parts` (buffer, offset, size; multiples of 4) to the encoder, one after the other into one
    /// slot, and submits it. `tag` comes back with the bytes.
    ///
    /// # Errors
    /// [`GpuError::RingFull`] and [`GpuError::ReadBackSize`], both before anything is submitted; as [`Gpu::check`].
    pub fn submit(
        &mut self,
        gpu: &Gpu,
        mut encoder: wgpu::CommandEncoder,
        tag: u64,
        parts: &[(&wgpu::Buffer, u64, u64)],
    ) -> Result<wgpu::SubmissionIndex, GpuError> {
        gpu.check()?;
        let wanted_bytes = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.2));
        let aligned = parts.iter().all(|&(_, offset, size)| (offset | size) % wgpu::COPY_BUFFER_ALIGNMENT == 0);
        if !aligned || wanted_bytes > self.slot_bytes || wanted_bytes == 0 {
            return Err(GpuError::ReadBackSize { wanted_bytes, slot_bytes: self.slot_bytes });
        }
        let ix = self.free.pop().ok_or(GpuError::RingFull { n_slots: self.slots.len() })?;
        let slot = &mut self.slots[ix];
        let mut at = 0;
        for &(buffer, offset, size) in parts {
            encoder.copy_buffer_to_buffer(buffer, offset, slot.buffer.raw(), at, size);
            at += size;
        }
        (slot.tag, slot.used_bytes) = (tag, wanted_bytes);
        slot.state.store(WAITING, Ordering::Release);
        let index = gpu.queue().submit([encoder.finish()]);
        let state = slot.state.clone();
        let done =
            move |mapped: Result<(), _>| state.store(if mapped.is_ok() { READY } else { FAILED }, Ordering::Release);
        slot.buffer.raw().map_async(wgpu::MapMode::Read, 0..wanted_bytes, done);
        self.flying.push_back(ix);
        Ok(index)
    }

    /// The oldest read-back if it has arrived: its bytes replace those of `out`, and its tag is returned.
    ///
    /// # Errors
    /// As [`Gpu::check`]; [`GpuError::Buffer`] if the slot could not be mapped.
    pub fn poll(&mut self, gpu: &Gpu, out: &mut Vec<u8>) -> Result<Option<u64>, GpuError> {
        let Some(&ix) = self.flying.front() else {
            return Ok(None);
        };
        if self.slots[ix].state.load(Ordering::Acquire) == WAITING {
            // A poll without waiting has nothing to report: a lost device comes through `check`.
            drop(gpu.device().poll(wgpu::PollType::Poll));
            gpu.check()?;
        }
        let slot = &self.slots[ix];
        let failed = |reason: String| GpuError::Buffer { what: "read-back".to_owned(), reason };
        match slot.state.load(Ordering::Acquire) {
            WAITING => return Ok(None),
            READY => {
                let raw = slot.buffer.raw();
                let view = raw.get_mapped_range(0..slot.used_bytes).map_err(|e| failed(e.to_string()))?;
                out.clear();
                out.extend_from_slice(&view);
                drop(view);
                raw.unmap();
            }
            _ => {
                gpu.check()?;
                return Err(failed("it could not be mapped".to_owned()));
            }
        }
        self.flying.pop_front();
        self.free.push(ix);
        Ok(Some(slot.tag))
    }

    /// Blocks until the oldest read-back has arrived: spins briefly, then sleeps between polls. For the native outer
    /// loop, never for the tick.
    ///
    /// # Errors
    /// As [`ReadBack::poll`]; [`GpuError::NothingInFlight`]; [`GpuError::Timeout`], after which the read-back is still
    /// in flight.
    pub fn wait(&mut self, gpu: &Gpu, out: &mut Vec<u8>, timeout: Duration) -> Result<u64, GpuError> {
        if self.flying.is_empty() {
            return Err(GpuError::NothingInFlight);
        }
        let (start, mut sleep) = (Instant::now(), FIRST_SLEEP);
        loop {
            if let Some(tag) = self.poll(gpu, out)? {
                return Ok(tag);
            }
            let waited = start.elapsed();
            if waited > timeout {
                return Err(GpuError::Timeout { waited_ms: waited.as_millis() });
            }
            if waited < SPIN {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(sleep);
                sleep = Duration::min(sleep * 2, LONGEST_SLEEP);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::memory::STORAGE;
    use crate::gpu::{MemoryOptions, testing};

    #[test]
    fn three_in_flight_come_back_in_order() {
        let Some(gpu) = testing::gpu() else { return };
        let memory = Memory::new(&gpu, &MemoryOptions::default());
        let (a, b) = (memory.allocate("a", 16, STORAGE).unwrap(), memory.allocate("b", 16, STORAGE).unwrap());
        let mut ring = ReadBack::new(&memory, 12, 3).unwrap();
        let mut out = Vec::new();
        assert!(matches!(ring.wait(&gpu, &mut out, Duration::ZERO), Err(GpuError::NothingInFlight)));
        for round in 0..3u64 {
            for step in 0..3u64 {
                gpu.queue().write_buffer(a.raw(), 0, &[step as u8 + 1; 16]);
                gpu.queue().write_buffer(b.raw(), 0, &[round as u8 + 9; 16]);
                let encoder = gpu.device().create_command_encoder(&Default::default());
                ring.submit(&gpu, encoder, round * 3 + step, &[(a.raw(), 4, 8), (b.raw(), 12, 4)]).unwrap();
            }
            let encoder = gpu.device().create_command_encoder(&Default::default());
            let full = ring.submit(&gpu, encoder, 99, &[(a.raw(), 0, 4)]);
            assert!(matches!(full, Err(GpuError::RingFull { n_slots: 3 })));
            for step in 0..3u64 {
                let tag = ring.wait(&gpu, &mut out, Duration::from_secs(20)).unwrap();
                assert_eq!(tag, round * 3 + step);
                let (x, y) = (step as u8 + 1, round as u8 + 9);
                assert_eq!(out, [x, x, x, x, x, x, x, x, y, y, y, y]);
            }
            assert_eq!(ring.poll(&gpu, &mut out).unwrap(), None);
            assert_eq!(ring.n_in_flight(), 0);
        }
        gpu.check().unwrap();
    }

    #[test]
    fn unfit_parts_are_refused_before_submission() {
        let Some(gpu) = testing::gpu() else { return };
        let memory = Memory::new(&gpu, &MemoryOptions::default());
        let a = memory.allocate("a", 64, STORAGE).unwrap();
        let mut ring = ReadBack::new(&memory, 16, 2).unwrap();
        for (offset, size) in [(0, 20), (2, 4), (0, 6), (0, 0)] {
            let encoder = gpu.device().create_command_encoder(&Default::default());
            let refused = ring.submit(&gpu, encoder, 0, &[(a.raw(), offset, size)]);
            assert!(matches!(refused, Err(GpuError::ReadBackSize { .. })), "{offset} {size}");
        }
        assert_eq!(ring.n_in_flight(), 0);
        gpu.check().unwrap();
    }

    #[test]
    fn a_lost_device_ends_the_wait() {
        let Some(gpu) = testing::gpu() else { return };
        let memory = Memory::new(&gpu, &MemoryOptions::default());
        let a = memory.allocate("a", 64, STORAGE).unwrap();
        let mut ring = ReadBack::new(&memory, 64, 1).unwrap();
        let encoder = gpu.device().create_command_encoder(&Default::default());
        ring.submit(&gpu, encoder, 0, &[(a.raw(), 0, 64)]).unwrap();
        gpu.device().destroy();
        // Work that was submitted before may still arrive; what follows may not.
        let _ = ring.wait(&gpu, &mut Vec::new(), Duration::from_secs(20));
        assert!(matches!(gpu.wait_idle(), Err(GpuError::Lost { .. })));
        let encoder = gpu.device().create_command_encoder(&Default::default());
        assert!(matches!(ring.submit(&gpu, encoder, 1, &[(a.raw(), 0, 64)]), Err(GpuError::Lost { .. })));
    }
}
