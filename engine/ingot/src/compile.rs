//! Ahead-of-time compilation: a model becomes an artifact, for any target, on any machine.

use crate::lower::Lowered;
use crate::random::RandomShape;
use crate::{Error, device};
use ingot_compiler::artifact::{self, WeightsOf};
use ingot_compiler::{Options, TargetProfile};
use ingot_ir::plan::Plan;
use std::path::Path;

/// How a model is compiled.
pub struct CompileOptions<'a> {
    /// What for.
    pub target: TargetProfile,
    /// Longest sequence in tokens; `None` takes the model's, at most 8192.
    pub context: Option<u32>,
    /// Sequences at one time.
    pub max_batch: u32,
    /// Bytes that the loaded plan may take; `None` does not ask.
    pub memory_budget: Option<u64>,
    /// Leaves the weights where they are, named by path, size and hash.
    pub plan_only: bool,
    /// Threads that repack; `None` takes all.
    pub n_threads: Option<usize>,
    /// Told the weight bytes written, and all.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// Compiles the checkpoint in a folder to an artifact and gives its plan.
///
/// # Errors
/// The checkpoint's, the compiler's, and those of writing `out`.
pub fn compile(folder: &Path, out: &Path, options: CompileOptions<'_>) -> Result<Plan, Error> {
    compile_lowered(&Lowered::checkpoint(folder)?, out, options)
}

/// Compiles a model of a known shape with random weights.
///
/// # Errors
/// As [`compile`].
pub fn compile_random(shape: &RandomShape, out: &Path, options: CompileOptions<'_>) -> Result<Plan, Error> {
    compile_lowered(&Lowered::random(shape), out, options)
}

fn compile_lowered(model: &Lowered, out: &Path, options: CompileOptions<'_>) -> Result<Plan, Error> {
    let max_context = model.context(options.context)?;
    let CompileOptions { max_batch, memory_budget, .. } = options;
    let plan = ingot_compiler::compile(
        &model.graph,
        &options.target,
        Options { max_context, max_batch: max_batch.max(1), memory_budget },
    )?;
    let files = model.files.as_ref().map_or(Ok(Vec::new()), |files| files.read_all())?;
    let tensors = |name: &str| model.weights.tensor_bytes(name);
    let weights = if options.plan_only { WeightsOf::Sources(model.sources()?) } else { WeightsOf::Tensors(&tensors) };
    let n_threads = options.n_threads.unwrap_or_else(device::n_threads);
    artifact::write(out, &plan, &model.eos_ids, &files, weights, n_threads, options.progress)?;
    Ok(plan)
}
