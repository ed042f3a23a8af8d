//! Measures a device's limits with kernels that do one thing each (`ceilings.wgsl`).

use super::memory::{Memory, MemoryOptions, STORAGE};
use super::pipelines::{self, BindingSpec, PipelineSet, PipelineSpec};
use super::readback::ReadBack;
use super::timing::Timer;
use super::{DeviceKind, Gpu, GpuBuffer, GpuError};
use crate::ceilings::Ceilings;
use std::time::{Duration, Instant};

/// The stream's buffer: many times the largest caches. A software rasterizer has the processor's.
const STREAM_BYTES: u64 = 1 << 30;
const SMALL_STREAM_BYTES: u64 = 256 << 20;

/// Bytes that a workgroup of the stream reads.
const PIECE_BYTES: u64 = 8 * 256 * 16;

/// Workgroups of the arithmetic: enough for every device to be full.
const MULTIPLY_GROUPS: u32 = 4096;

/// Operations of one of its invocations in a round: eight vectors of four, two each.
const ROUND_FLOPS: f64 = 8.0 * 4.0 * 2.0;

/// A dispatch of the arithmetic is to take about this long: launching it must not matter.
const LONG: f64 = 5e-3;

/// A measurement is repeated until this many in a row are no better than the best, which counts: an idle device takes a
/// while to raise its clocks.
const REPEATS: usize = 12;

/// Repeats at most.
const MOST_REPEATS: usize = 400;

/// Whatever takes longer is a hang.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Measures both limits in a second or two. The buffer is freed again.
///
/// # Errors
/// As [`Memory::allocate`]: the stream's buffer needs room beside what else is loaded.
pub fn measure(gpu: &Gpu) -> Result<Ceilings, GpuError> {
    let mut rig = Rig::new(gpu)?;
    rig.write_sizes(0);
    rig.run("fill", rig.n_pieces)?;
    let bytes = f64::from(rig.n_pieces) * PIECE_BYTES as f64;
    let read_s = rig.best_s("stream", rig.n_pieces)?;
    // One round tells how many make a long dispatch.
    let mut rounds = 64;
    rig.write_sizes(rounds);
    rig.run("multiply", MULTIPLY_GROUPS)?;
    let once = rig.run("multiply", MULTIPLY_GROUPS)?.max(1e-6);
    rounds = (f64::from(rounds) * LONG / once).clamp(16.0, 65_536.0) as u32;
    rig.write_sizes(rounds);
    let multiply_s = rig.best_s("multiply", MULTIPLY_GROUPS)?;
    let flops = f64::from(MULTIPLY_GROUPS) * 256.0 * f64::from(rounds) * ROUND_FLOPS;
    gpu.check()?;
    Ok(Ceilings { read_gb_s: bytes / read_s / 1e9, gflop_s: flops / multiply_s / 1e9 })
}

/// The kernels, and what they work on.
struct Rig<'a> {
    gpu: &'a Gpu,
    pipelines: PipelineSet,
    bound: Vec<wgpu::BindGroup>,
    sizes: GpuBuffer,
    n_pieces: u32,
    timer: Option<Timer>,
    readback: ReadBack,
}

const ENTRIES: [&str; 3] = ["fill", "stream", "multiply"];

impl<'a> Rig<'a> {
    fn new(gpu: &'a Gpu) -> Result<Self, GpuError> {
        let memory = Memory::new(gpu, &MemoryOptions::default());
        let wanted = if gpu.info().kind == DeviceKind::Cpu { SMALL_STREAM_BYTES } else { STREAM_BYTES };
        let most = wanted.min(gpu.info().max_binding_bytes).min(gpu.info().max_buffer_bytes);
        let n_pieces = (most / PIECE_BYTES).max(1);
        let data = memory.allocate("read stream", n_pieces * PIECE_BYTES, STORAGE)?;
        let sizes = memory.allocate("sizes of the read stream", 16, STORAGE)?;
        let sink = memory.allocate("sink of the read stream", 16, STORAGE)?;
        let binding = |binding, read_only| BindingSpec { group: 0, binding, read_only };
        let bindings = [binding(0, false), binding(1, true), binding(2, false)];
        let wgsl = include_str!("ceilings.wgsl");
        let specs = ENTRIES.map(|entry| PipelineSpec { label: entry, wgsl, entry, trusted: true, bindings: &bindings });
        let pipelines = pipelines::create(gpu, &specs, 1, None)?;
        let resources = [(0, data.binding(0, data.size_bytes())), (1, sizes.binding(0, 16)), (2, sink.binding(0, 16))];
        let bind = |ix: usize| pipelines.get(ix).bind_group(gpu, 0, &resources);
        let bound = (0..ENTRIES.len()).map(bind).collect::<Result<_, _>>()?;
        let timer = Timer::new(gpu, &memory, 1)?;
        let readback = ReadBack::new(&memory, 256, 1)?;
        Ok(Self { gpu, pipelines, bound, sizes, n_pieces: n_pieces as u32, timer, readback })
    }

    fn write_sizes(&self, rounds: u32) {
        // The factor keeps every sum finite however many rounds there are.
        let words = [self.n_pieces, rounds, 0.5f32.to_bits(), 0.5f32.to_bits()];
        self.gpu.queue().write_buffer(self.sizes.raw(), 0, bytemuck::cast_slice(&words));
    }

    fn best_s(&mut self, entry: &str, n_groups: u32) -> Result<f64, GpuError> {
        let (mut best, mut n_since) = (f64::INFINITY, 0);
        for _ in 0..MOST_REPEATS {
            let found = self.run(entry, n_groups)?;
            n_since = if found < 0.995 * best { 0 } else { n_since + 1 };
            best = best.min(found);
            if n_since == REPEATS {
                break;
            }
        }
        Ok(best.max(1e-9))
    }

    /// Runs a kernel once; seconds by the device's clock, else by ours.
    fn run(&mut self, entry: &str, n_groups: u32) -> Result<f64, GpuError> {
        let ix = ENTRIES.iter().position(|other| *other == entry).unwrap_or(0);
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        {
            let timestamp_writes = self.timer.as_ref().map(|timer| timer.pass_span(0));
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            pass.set_pipeline(self.pipelines.get(ix).raw());
            pass.set_bind_group(0, &self.bound[ix], &[]);
            let x = n_groups.min(1 << 15);
            pass.dispatch_workgroups(x, n_groups.div_ceil(x), 1);
        }
        let Some(timer) = &self.timer else {
            let started = Instant::now();
            self.gpu.queue().submit([encoder.finish()]);
            self.gpu.wait_idle()?;
            return Ok(started.elapsed().as_secs_f64());
        };
        timer.resolve(&mut encoder, 1);
        self.readback.submit(self.gpu, encoder, 0, &[timer.readback_part(1)])?;
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        self.readback.wait(self.gpu, &mut bytes, TIMEOUT)?;
        timer.spans_ns(&bytes, &mut spans);
        Ok(spans.first().map_or(0.0, |ns| *ns as f64 / 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing;

    #[test]
    fn a_device_has_limits() {
        let Some(gpu) = testing::gpu() else { return };
        let found = measure(&gpu).unwrap();
        assert!((0.05..20_000.0).contains(&found.read_gb_s), "{found:?}");
        assert!((0.05..1e6).contains(&found.gflop_s), "{found:?}");
    }
}
