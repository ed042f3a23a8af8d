//! Runs a step with a look at the clock after each dispatch.

use super::{CpuBackend, StepView, run};
use crate::backend::{KernelTime, StepInput};
use crate::ceilings::Ceilings;
use crate::error::RuntimeError;
use std::time::Instant;

impl CpuBackend {
    /// Measures the processor's limits with the threads of this backend.
    pub fn ceilings(&self) -> Ceilings {
        crate::cpu::ceilings::measure(self.pool.n_threads())
    }

    /// Runs a step and tells when each of the variant's dispatches ran, in their order.
    ///
    /// # Errors
    /// [`RuntimeError::Cpu`] if the step block is none.
    pub fn profile(&mut self, step: &StepInput<'_>) -> Result<Vec<KernelTime>, RuntimeError> {
        let view = StepView::new(step.words).ok_or_else(|| RuntimeError::Cpu("the step block is damaged".into()))?;
        let (first, n) = self.spans[step.variant.0 as usize];
        let started = Instant::now();
        let now_ns = || started.elapsed().as_nanos() as u64;
        let mut times = Vec::with_capacity(n);
        for launch in &self.launches[first..first + n] {
            let start_ns = now_ns();
            run(launch, view, &self.pool, self.activations, &mut self.scratch, &mut self.memory);
            times.push(KernelTime { start_ns, end_ns: now_ns() });
        }
        Ok(times)
    }
}
