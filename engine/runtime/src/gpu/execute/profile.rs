//! Runs a step with a timestamp between any two dispatches.
//!
//! With timestamps inside passes the step stays one pass and a mark stands before, between and after its dispatches. A
//! mark waits for what stands before it, so that kernels which would overlap run one after the other. Without them (on
//! Apple's GPUs) every dispatch is a pass of its own.

use super::{GpuBackend, Launch, encode};
use crate::backend::{KernelTime, StepInput};
use crate::ceilings::Ceilings;
use crate::error::RuntimeError;
use crate::gpu::{GpuError, ReadBack, Timer};

impl GpuBackend {
    /// Measures the device's limits beside the loaded plan. Nothing may be in flight.
    ///
    /// # Errors
    /// As [`ceilings::measure`](crate::gpu::ceilings::measure).
    pub fn ceilings(&self) -> Result<Ceilings, RuntimeError> {
        Ok(crate::gpu::ceilings::measure(&self.gpu)?)
    }

    /// Runs a step and tells when each of the variant's dispatches ran, in their order. Nothing may be in flight.
    ///
    /// # Errors
    /// [`GpuError::NoTimestamps`] if the adapter has none, or the variant more dispatches than a query set has marks.
    pub fn profile(&mut self, step: &StepInput<'_>) -> Result<Vec<KernelTime>, RuntimeError> {
        let [computes, chooses] = self.spans[step.variant.0 as usize].clone();
        let launches = &self.launches[computes.start..chooses.end];
        let n = launches.len();
        let n_spans = u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
        let Some(timer) = Timer::new(&self.gpu, &self.memory, n_spans)? else {
            let adapter = self.gpu.info().name.clone();
            return Err(GpuError::NoTimestamps { adapter, n_dispatches: n }.into());
        };
        self.gpu.queue().write_buffer(self.buffers.step.raw(), 0, bytemuck::cast_slice(step.words));
        let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        let in_pass = timer.marks_dispatches();
        let n_spans = if in_pass {
            self.marked(&mut encoder, &timer, launches, step)
        } else {
            self.pass_each(&mut encoder, &timer, launches, step)
        };
        timer.resolve(&mut encoder, n_spans);
        let part = timer.readback_part(n_spans);
        let mut readback = ReadBack::new(&self.memory, part.2, 1)?;
        readback.submit(&self.gpu, encoder, 0, &[part])?;
        let mut bytes = Vec::new();
        readback.wait(&self.gpu, &mut bytes, super::STEP_TIMEOUT)?;
        let mut marks = Vec::new();
        timer.marks_ns(&bytes, &mut marks);
        let time = |ix: usize| {
            let (start, end) = if in_pass { (ix, ix + 1) } else { (2 * ix, 2 * ix + 1) };
            KernelTime { start_ns: marks[start], end_ns: marks[end].max(marks[start]) }
        };
        Ok((0..n).map(time).collect())
    }

    /// One pass, `n + 1` marks.
    fn marked(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        timer: &Timer,
        launches: &[Launch],
        step: &StepInput<'_>,
    ) -> u32 {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: None });
        let mut n_marks = 0;
        let mut mark = |pass: &mut wgpu::ComputePass<'_>| {
            timer.mark(pass, n_marks);
            n_marks += 1;
        };
        mark(&mut pass);
        for launch in launches {
            encode(&mut pass, std::slice::from_ref(launch), &self.pipelines, &self.exprs, &step.dims);
            mark(&mut pass);
        }
        // A span is two marks.
        if launches.len().is_multiple_of(2) {
            mark(&mut pass);
        }
        n_marks / 2
    }

    /// A pass a dispatch.
    fn pass_each(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        timer: &Timer,
        launches: &[Launch],
        step: &StepInput<'_>,
    ) -> u32 {
        let mut n_spans = 0;
        for launch in launches {
            let timestamp_writes = Some(timer.pass_span(n_spans));
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            encode(&mut pass, std::slice::from_ref(launch), &self.pipelines, &self.exprs, &step.dims);
            n_spans += 1;
        }
        n_spans
    }
}
