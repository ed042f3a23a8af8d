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
    /// Positions that the cache holds of a sequence at most: as [`LoadOptions::max_kv_size`](crate::LoadOptions).
    pub max_kv_size: Option<u32>,
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
/// ```
/// use ingot::{CompileOptions, LoadOptions, Model, compiler::TargetProfile};
///
/// let folder = tempfile::tempdir().unwrap();
/// let file = folder.path().join("tales.ingot");
/// let options = CompileOptions {
///     target: TargetProfile::cpu(),
///     context: Some(256),
///     max_batch: 1,
///     max_kv_size: None,
///     memory_budget: None,
///     plan_only: false,
///     n_threads: None,
///     progress: &mut |_, _| {},
/// };
/// ingot::compile("../../models/ingot-tales-1m".as_ref(), &file, options)?;
/// let model = Model::load(&file, LoadOptions::default())?;
/// assert_eq!(model.facts().max_context, 256);
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// The checkpoint's, the compiler's, and those of writing `out`.
pub fn compile(folder: &Path, out: &Path, options: CompileOptions<'_>) -> Result<Plan, Error> {
    compile_lowered(&Lowered::checkpoint(folder)?.limited(options.max_kv_size)?, out, options)
}

/// Compiles a model of a known shape with random weights.
///
/// ```no_run
/// # use ingot::{CompileOptions, RandomShape, compiler::TargetProfile};
/// # let mut progress = |_, _| {};
/// # let options = CompileOptions { target: TargetProfile::vulkan(), context: None, max_batch: 1, max_kv_size: None,
/// #     memory_budget: None, plan_only: false, n_threads: None, progress: &mut progress };
/// let plan = ingot::compile_random(&RandomShape::named("llama-1b")?, "llama-1b.ingot".as_ref(), options)?;
/// println!("{} kernels", plan.kernels.len());
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// As [`compile`].
pub fn compile_random(shape: &RandomShape, out: &Path, options: CompileOptions<'_>) -> Result<Plan, Error> {
    compile_lowered(&Lowered::random(shape).limited(options.max_kv_size)?, out, options)
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
    let tensors = |name: &str| model.weights.known(name);
    let weights = if options.plan_only { WeightsOf::Sources(model.sources()?) } else { WeightsOf::Tensors(&tensors) };
    let n_threads = options.n_threads.unwrap_or_else(device::n_threads);
    artifact::write(out, &plan, &model.eos_ids, &files, weights, n_threads, options.progress)?;
    Ok(plan)
}
