//! Times one kernel by itself: what `ingot tune` chooses tiles by.
//!
//! A kernel is dispatched many times in one pass, each dispatch waiting for the one before it, as in a plan. Its matrix
//! lies in memory several times over and every dispatch takes the next copy, so that no cache serves it: in a model
//! the other layers' weights pass between two uses of one.

use super::memory::{Memory, MemoryOptions, STORAGE, round_up};
use super::pipelines::{self, BindingSpec, PipelineSet, PipelineSpec};
use super::readback::ReadBack;
use super::timing::Timer;
use super::{Gpu, GpuBuffer, GpuError};
use ingot_ir::kernel::{Access, Role};
use ingot_ir::plan::{BINDING_ALIGN, MAX_WORKGROUPS, PlanKernel};
use std::time::{Duration, Instant};

/// Copies of a matrix take about as much memory as this by default: several times the largest caches.
pub const ROTATE_BYTES: u64 = 256 << 20;

/// Copies of a small matrix: more do not change what a dispatch meets.
const MAX_COPIES: u64 = 256;

/// A sample is as many dispatches as take about this long.
const SAMPLE: Duration = Duration::from_millis(2);

/// Dispatches of a sample at most: one pass that a driver does not take for a hang.
const MAX_DISPATCHES: u32 = 1000;

/// Whatever takes longer is a hang.
const TIMEOUT: Duration = Duration::from_secs(120);

/// An operand of the kernels to be timed, with its contents.
pub struct TrialOperand {
    /// Its part in the kernels.
    pub role: Role,
    /// What it holds; the result's place too, as its kernel may add to it.
    pub bytes: Vec<u8>,
}

/// An operand on the device.
struct Placed {
    role: Role,
    buffer: GpuBuffer,
    n_bytes: u64,
    /// From one copy to the next.
    stride: u64,
    n_copies: u64,
}

/// The operands of kernels that compute the same, on a device.
pub struct Trial {
    gpu: Gpu,
    memory: Memory,
    placed: Vec<Placed>,
    /// What the result's place holds before a kernel runs.
    out: Vec<u8>,
    readback: ReadBack,
    timer: Option<Timer>,
}

/// A kernel, ready to be dispatched.
pub struct TrialKernel {
    pipelines: PipelineSet,
    /// Bind groups by copy of the matrix, then by number.
    bound: Vec<Vec<Option<wgpu::BindGroup>>>,
    /// Workgroups.
    grid: u32,
    /// Dispatches of a sample, once they are known.
    n_dispatches: Option<u32>,
}

impl Trial {
    /// Places operands, the matrix as often as fits into `rotate_bytes`.
    ///
    /// # Errors
    /// As [`Memory::allocate`].
    pub fn new(
        gpu: &Gpu,
        memory: &MemoryOptions,
        operands: Vec<TrialOperand>,
        rotate_bytes: u64,
    ) -> Result<Self, GpuError> {
        let mut memory = Memory::new(gpu, memory);
        let out = operands.iter().find(|operand| operand.role == Role::Out).map_or(Vec::new(), |out| out.bytes.clone());
        let mut placed = Vec::with_capacity(operands.len());
        for TrialOperand { role, bytes } in operands {
            let n_bytes = (bytes.len() as u64).max(16).next_multiple_of(16);
            let mut fill = |offset: u64, piece: &mut [u8]| {
                let rest = bytes.get(offset as usize..).unwrap_or(&[]);
                let n = rest.len().min(piece.len());
                let (filled, padding) = piece.split_at_mut(n);
                filled.copy_from_slice(&rest[..n]);
                padding.fill(0);
                Ok(())
            };
            let one = memory.upload(role.name(), n_bytes, &mut fill)?;
            let stride = round_up(n_bytes, BINDING_ALIGN.max(gpu.info().binding_alignment_bytes.into()));
            let room = rotate_bytes.min(gpu.info().max_buffer_bytes);
            let n_copies = if role == Role::Weight { (room / stride).clamp(1, MAX_COPIES) } else { 1 };
            let buffer = if n_copies > 1 { copies(gpu, &memory, &one, stride, n_copies)? } else { one };
            placed.push(Placed { role, buffer, n_bytes, stride, n_copies });
        }
        memory.finish_uploads()?;
        let readback = ReadBack::new(&memory, (out.len() as u64).next_multiple_of(4).max(256), 1)?;
        let timer = Timer::new(gpu, &memory, 1)?;
        Ok(Self { gpu: gpu.clone(), memory, placed, out, readback, timer })
    }

    /// Bytes on the device.
    pub fn active_bytes(&self) -> u64 {
        self.memory.in_use().active_bytes
    }

    /// Makes a kernel's pipeline and binds the operands. `trusted` as in [`PipelineSpec`]; `grid` in workgroups.
    ///
    /// # Errors
    /// [`GpuError::Kernel`] if the driver refuses it or an operand is missing.
    pub fn prepare(&self, kernel: &PlanKernel, grid: u32, trusted: bool) -> Result<TrialKernel, GpuError> {
        let label = kernel.spec.template.name();
        let binding = |slot: &ingot_ir::plan::Slot| BindingSpec {
            group: slot.group,
            binding: slot.binding,
            read_only: slot.access == Access::Read,
        };
        let bindings: Vec<BindingSpec> = kernel.slots.iter().map(binding).collect();
        let spec = PipelineSpec { label, wgsl: &kernel.wgsl, entry: "main", trusted, bindings: &bindings };
        let pipelines = pipelines::create(&self.gpu, &[spec], 1, None)?;
        let pipeline = pipelines.get(0);
        let n_copies = self.placed.iter().map(|operand| operand.n_copies).max().unwrap_or(1);
        let mut bound = Vec::with_capacity(n_copies as usize);
        for copy in 0..n_copies {
            let mut groups = Vec::new();
            for group in 0..pipeline.n_groups() {
                let mut resources = Vec::new();
                for slot in kernel.slots.iter().filter(|slot| slot.group == group) {
                    let Some(operand) = self.placed.iter().find(|operand| operand.role == slot.role) else {
                        let reason = format!("it takes an operand {} that there is not", slot.role);
                        return Err(GpuError::Kernel { kernel: label.to_owned(), reason });
                    };
                    let offset = copy % operand.n_copies * operand.stride;
                    resources.push((slot.binding, operand.buffer.binding(offset, operand.n_bytes)));
                }
                let made = (!resources.is_empty()).then(|| pipeline.bind_group(&self.gpu, group, &resources));
                groups.push(made.transpose()?);
            }
            bound.push(groups);
        }
        Ok(TrialKernel { pipelines, bound, grid, n_dispatches: None })
    }

    /// The result's place after one dispatch, as numbers.
    ///
    /// # Errors
    /// As [`Gpu::check`] and [`ReadBack::wait`].
    pub fn output(&mut self, kernel: &TrialKernel) -> Result<Vec<f32>, GpuError> {
        let Some(out) = self.placed.iter().find(|operand| operand.role == Role::Out) else { return Ok(Vec::new()) };
        let n_bytes = self.out.len() as u64 / 4 * 4;
        self.gpu.queue().write_buffer(out.buffer.raw(), 0, &self.out[..n_bytes as usize]);
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encode(&mut encoder.begin_compute_pass(&Default::default()), kernel, 1);
        self.readback.submit(&self.gpu, encoder, 0, &[(out.buffer.raw(), 0, n_bytes)])?;
        let mut bytes = Vec::new();
        self.readback.wait(&self.gpu, &mut bytes, TIMEOUT)?;
        self.gpu.check()?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Microseconds of one dispatch: the median of `n_samples` samples.
    ///
    /// # Errors
    /// As [`Gpu::check`] and [`ReadBack::wait`].
    pub fn time_us(&mut self, kernel: &mut TrialKernel, n_samples: usize) -> Result<f64, GpuError> {
        let n = match kernel.n_dispatches {
            Some(n) => n,
            None => {
                // The first run pays for what the driver puts off until then.
                self.sample_us(kernel, 1)?;
                let one = self.sample_us(kernel, 4)?.max(0.1);
                (SAMPLE.as_secs_f64() * 1e6 / one).clamp(1.0, f64::from(MAX_DISPATCHES)) as u32
            }
        };
        kernel.n_dispatches = Some(n);
        let mut samples: Vec<f64> =
            (0..n_samples.max(1)).map(|_| self.sample_us(kernel, n)).collect::<Result<_, _>>()?;
        samples.sort_by(f64::total_cmp);
        Ok(samples[samples.len() / 2])
    }

    /// Microseconds of one of `n` dispatches: by the device's clock, else by ours.
    fn sample_us(&mut self, kernel: &TrialKernel, n: u32) -> Result<f64, GpuError> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let timestamp_writes = self.timer.as_ref().map(|timer| timer.pass_span(0));
        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        encode(&mut encoder.begin_compute_pass(&descriptor), kernel, n);
        let total_ns = match &self.timer {
            Some(timer) => {
                timer.resolve(&mut encoder, 1);
                self.readback.submit(&self.gpu, encoder, 0, &[timer.readback_part(1)])?;
                let (mut bytes, mut spans) = (Vec::new(), Vec::new());
                self.readback.wait(&self.gpu, &mut bytes, TIMEOUT)?;
                timer.spans_ns(&bytes, &mut spans);
                spans.first().map_or(0.0, |ns| *ns as f64)
            }
            None => {
                let started = Instant::now();
                self.gpu.queue().submit([encoder.finish()]);
                self.gpu.wait_idle()?;
                started.elapsed().as_nanos() as f64
            }
        };
        self.gpu.check()?;
        Ok(total_ns / 1e3 / f64::from(n.max(1)))
    }
}

/// A buffer that holds `one` again and again, `stride` bytes apart.
fn copies(gpu: &Gpu, memory: &Memory, one: &GpuBuffer, stride: u64, n_copies: u64) -> Result<GpuBuffer, GpuError> {
    let all = memory.allocate("copies of a matrix", stride * n_copies, STORAGE)?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for copy in 0..n_copies {
        encoder.copy_buffer_to_buffer(one.raw(), 0, all.raw(), copy * stride, one.size_bytes());
    }
    gpu.queue().submit([encoder.finish()]);
    gpu.wait_idle()?;
    Ok(all)
}

/// Encodes `n` dispatches, each on the next copy of the matrix.
fn encode(pass: &mut wgpu::ComputePass<'_>, kernel: &TrialKernel, n: u32) {
    pass.set_pipeline(kernel.pipelines.get(0).raw());
    let grid = kernel.grid.max(1);
    let (x, y) = if grid <= MAX_WORKGROUPS { (grid, 1) } else { (MAX_WORKGROUPS, grid.div_ceil(MAX_WORKGROUPS)) };
    for (_, groups) in (0..n).zip(kernel.bound.iter().cycle()) {
        for (ix, group) in (0..).zip(groups) {
            if let Some(group) = group {
                pass.set_bind_group(ix, group, &[]);
            }
        }
        pass.dispatch_workgroups(x, y, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing;
    use ingot_ir::kernel::{KernelSpec, Rows, Template};
    use ingot_ir::plan::Slot;

    /// Adds the matrix to the result's place, `repeat` times over.
    fn adder(repeat: u32) -> PlanKernel {
        let wgsl = format!(
            "@group(1) @binding(0) var<storage, read> w: array<f32>;
             @group(2) @binding(0) var<storage, read_write> y: array<f32>;
             @compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
                 for (var i = 0u; i < {repeat}u; i++) {{ y[id.x] = y[id.x] + w[id.x]; }}
             }}"
        );
        let slot = |role, group, access| Slot { role, access, group, binding: 0 };
        let slots = vec![slot(Role::Weight, 1, Access::Read), slot(Role::Out, 2, Access::ReadWrite)];
        PlanKernel { spec: KernelSpec::new(Template::Matvec, Rows::Tokens), slots, workgroup: [4, 1, 1], wgsl }
    }

    fn operand(role: Role, numbers: &[f32]) -> TrialOperand {
        TrialOperand { role, bytes: bytemuck::cast_slice(numbers).to_vec() }
    }

    #[test]
    fn a_kernel_gives_its_result_once_and_takes_time() {
        let Some(gpu) = testing::gpu() else { return };
        let operands = vec![operand(Role::Weight, &[1.0, 2.0, 3.0, 4.0]), operand(Role::Out, &[10.0; 4])];
        let mut trial = Trial::new(&gpu, &MemoryOptions::default(), operands, 1000).unwrap();
        assert!(trial.active_bytes() > 3 * 256, "three copies fit into 1000 bytes");
        let mut fast = trial.prepare(&adder(1), 1, false).unwrap();
        assert_eq!(fast.bound.len(), 3);
        let mut slow = trial.prepare(&adder(20_000), 1, false).unwrap();
        assert_eq!(trial.output(&fast).unwrap(), [11.0, 12.0, 13.0, 14.0]);
        let (fast_us, slow_us) = (trial.time_us(&mut fast, 3).unwrap(), trial.time_us(&mut slow, 3).unwrap());
        assert!(fast_us > 0.0 && fast_us * 3.0 < slow_us, "{fast_us} and {slow_us} us");
        assert_eq!(trial.output(&fast).unwrap(), [11.0, 12.0, 13.0, 14.0], "timing leaves nothing behind");
        gpu.check().unwrap();
    }

    #[test]
    fn a_missing_operand_is_named() {
        let Some(gpu) = testing::gpu() else { return };
        let operands = vec![operand(Role::Out, &[0.0; 4])];
        let trial = Trial::new(&gpu, &MemoryOptions::default(), operands, 0).unwrap();
        let error = trial.prepare(&adder(1), 1, false).map(drop).unwrap_err();
        assert!(error.to_string().contains("operand weight"), "{error}");
        gpu.check().unwrap();
    }
}
