//! Timestamps: around a whole step, or around each of its dispatches when profiling.
//!
//! The marks of a step are resolved into a small buffer that travels with the step's read-back
//! ([`Timer::readback_part`]), so timing costs no extra submission and no wait. One query set serves all steps in
//! flight: steps run in order on one queue.

use super::{Gpu, GpuBuffer, GpuError, Memory};
use wgpu::{BufferUsages, ComputePassTimestampWrites};

const MARK_BYTES: u64 = 8;

/// The timestamps of a step.
#[derive(Debug)]
pub struct Timer {
    set: wgpu::QuerySet,
    resolved: GpuBuffer,
    n_spans: u32,
    in_passes: bool,
    period_ns: f64,
}

impl Timer {
    /// A timer of `n_spans` spans (1: the whole step; profiling: one a dispatch). `None` where the adapter has no
    /// timestamps, or where `n_spans` is 0 or more than a query set holds.
    ///
    /// # Errors
    /// As [`Memory::allocate`].
    pub fn new(gpu: &Gpu, memory: &Memory, n_spans: u32) -> Result<Option<Timer>, GpuError> {
        let count = match n_spans.checked_mul(2) {
            Some(count @ 2..=wgpu::QUERY_SET_MAX_QUERIES) if gpu.info().timestamps => count,
            _ => return Ok(None),
        };
        let ty = wgpu::QueryType::Timestamp;
        let set = gpu.device().create_query_set(&wgpu::QuerySetDescriptor { label: Some("step times"), ty, count });
        let usage = BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC;
        let resolved = memory.allocate("step times", u64::from(count) * MARK_BYTES, usage)?;
        gpu.check()?;
        let period_ns = f64::from(gpu.timestamp_period_ns());
        Ok(Some(Timer { set, resolved, n_spans, in_passes: gpu.info().timestamps_in_passes, period_ns }))
    }

    /// Spans of this timer.
    pub fn n_spans(&self) -> u32 {
        self.n_spans
    }

    /// Whether [`Timer::start`] and [`Timer::stop`] work inside a pass. Where not (Apple's GPUs), a profiled dispatch
    /// gets a pass of its own with [`Timer::pass_span`].
    pub fn marks_dispatches(&self) -> bool {
        self.in_passes
    }

    /// For a pass's descriptor: the pass is span `ix`.
    pub fn pass_span(&self, ix: u32) -> ComputePassTimestampWrites<'_> {
        assert!(ix < self.n_spans, "span {ix} of {}", self.n_spans);
        ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(2 * ix),
            end_of_pass_write_index: Some(2 * ix + 1),
        }
    }

    /// Begins span `ix` inside a pass.
    pub fn start(&self, pass: &mut wgpu::ComputePass, ix: u32) {
        assert!(ix < self.n_spans && self.in_passes, "span {ix} of {}", self.n_spans);
        pass.write_timestamp(&self.set, 2 * ix);
    }

    /// Ends span `ix` inside a pass.
    pub fn stop(&self, pass: &mut wgpu::ComputePass, ix: u32) {
        assert!(ix < self.n_spans && self.in_passes, "span {ix} of {}", self.n_spans);
        pass.write_timestamp(&self.set, 2 * ix + 1);
    }

    /// Writes mark `ix` inside a pass: span `n` has the marks `2 n` and `2 n + 1`.
    pub fn mark(&self, pass: &mut wgpu::ComputePass, ix: u32) {
        assert!(ix / 2 < self.n_spans && self.in_passes, "mark {ix} of {} spans", self.n_spans);
        pass.write_timestamp(&self.set, ix);
    }

    /// Resolves the first `n_spans` spans, all of which must have been written; to be called after the last pass.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder, n_spans: u32) {
        assert!(n_spans <= self.n_spans, "{n_spans} spans of {}", self.n_spans);
        encoder.resolve_query_set(&self.set, 0..2 * n_spans, self.resolved.raw(), 0);
    }

    /// What to append to the step's read-back for `n_spans` spans.
    pub fn readback_part(&self, n_spans: u32) -> (&wgpu::Buffer, u64, u64) {
        (self.resolved.raw(), 0, u64::from(n_spans) * 2 * MARK_BYTES)
    }

    /// The spans' lengths in nanoseconds from the bytes of [`Timer::readback_part`]; they replace those of `out`. A
    /// span whose clock ran backwards (the device was reset in between) has length 0.
    pub fn spans_ns(&self, bytes: &[u8], out: &mut Vec<u64>) {
        out.clear();
        out.extend(bytes.chunks_exact(2 * MARK_BYTES as usize).map(|span| {
            let [start, stop] = bytemuck::pod_read_unaligned::<[u64; 2]>(span);
            (stop.saturating_sub(start) as f64 * self.period_ns).round() as u64
        }));
    }

    /// The marks in nanoseconds after the first, from the same bytes; they replace those of `out`.
    pub fn marks_ns(&self, bytes: &[u8], out: &mut Vec<u64>) {
        let mark = |bytes: &[u8]| bytemuck::pod_read_unaligned::<u64>(bytes);
        let first = bytes.get(..MARK_BYTES as usize).map_or(0, mark);
        out.clear();
        out.extend(bytes.chunks_exact(MARK_BYTES as usize).map(|bytes| {
            let ticks = mark(bytes).saturating_sub(first);
            (ticks as f64 * self.period_ns).round() as u64
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::pipelines::{self, BindingSpec, PipelineSpec};
    use crate::gpu::{MemoryOptions, ReadBack, memory, testing};
    use std::time::Duration;

    const WORK: &str = "
        @group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            var v = x[id.x];
            for (var k = 0u; k < 500u; k++) { v = v * 0.99 + 0.5; }
            x[id.x] = v;
        }";

    #[test]
    fn a_step_and_its_dispatches_take_time() {
        let Some(gpu) = testing::gpu() else { return };
        let memory = Memory::new(&gpu, &MemoryOptions::default());
        let Some(timer) = Timer::new(&gpu, &memory, 3).unwrap() else {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: the adapter has no timestamps\n");
            return;
        };
        let bindings = [BindingSpec { group: 0, binding: 0, read_only: false }];
        let spec = PipelineSpec { label: "work", wgsl: WORK, entry: "main", trusted: false, bindings: &bindings };
        let set = pipelines::create(&gpu, &[spec], 1, None).unwrap();
        let x = memory.allocate("x", 64 * 64 * 4, memory::STORAGE).unwrap();
        let group = set.get(0).bind_group(&gpu, 0, &[(0, x.binding(0, x.size_bytes()))]).unwrap();
        let mut ring = ReadBack::new(&memory, 64, 1).unwrap();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let timestamp_writes = Some(timer.pass_span(0));
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        pass.set_pipeline(set.get(0).raw());
        pass.set_bind_group(0, &group, &[]);
        let n_spans = if timer.marks_dispatches() { 3 } else { 1 };
        for ix in 1..3 {
            if timer.marks_dispatches() {
                timer.start(&mut pass, ix);
            }
            pass.dispatch_workgroups(64, 1, 1);
            if timer.marks_dispatches() {
                timer.stop(&mut pass, ix);
            }
        }
        drop(pass);
        timer.resolve(&mut encoder, n_spans);
        ring.submit(&gpu, encoder, 0, &[timer.readback_part(n_spans)]).unwrap();
        let mut bytes = Vec::new();
        ring.wait(&gpu, &mut bytes, Duration::from_secs(20)).unwrap();
        let mut spans = Vec::new();
        timer.spans_ns(&bytes, &mut spans);
        assert_eq!(spans.len(), n_spans as usize);
        assert!(spans.iter().all(|&ns| ns > 0 && ns < 20_000_000_000), "{spans:?}");
        assert!(spans[1..].iter().sum::<u64>() <= spans[0], "{spans:?}");
        gpu.check().unwrap();
    }

    #[test]
    fn no_spans_or_too_many_make_no_timer() {
        let Some(gpu) = testing::gpu() else { return };
        let memory = Memory::new(&gpu, &MemoryOptions::default());
        for n_spans in [0, wgpu::QUERY_SET_MAX_QUERIES, u32::MAX] {
            assert!(Timer::new(&gpu, &memory, n_spans).unwrap().is_none());
        }
        gpu.check().unwrap();
    }
}
