//! Ahead-of-time compilation: a model becomes an artifact, for any target, on any machine.

use crate::lower::Lowered;
use crate::random::RandomShape;
use crate::{Error, device};
use ingot_compiler::artifact::{self, WeightsOf};
use ingot_compiler::{Options, TargetProfile};
use ingot_ir::plan::Plan;
use std::path::Path;

/// How a model is compiled: [`CompileOptions::new`] with what is to be otherwise.
///
/// ```
/// use ingot::{CompileOptions, compiler::TargetProfile};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("tales.ingot");
/// let options = CompileOptions {
///     context: Some(256), // tokens of the longest sequence
///     plan_only: true,    // the weights stay where they are
///     ..CompileOptions::new(TargetProfile::vulkan())
/// };
/// let plan = ingot::compile("../../models/ingot-tales-1m".as_ref(), &file, options)?;
/// assert_eq!((&*plan.target, plan.max_context), ("vulkan", 256));
/// # Ok::<(), ingot::Error>(())
/// ```
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
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

impl CompileOptions<'_> {
    /// All weights inside, one sequence at a time, and for the rest the model's own limits.
    ///
    /// ```
    /// use ingot::{CompileOptions, DeviceChoice};
    ///
    /// let options = CompileOptions::new(ingot::target(&DeviceChoice::Cpu)?);
    /// assert_eq!((&*options.target.name, options.max_batch, options.context), ("cpu", 1, None));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn new(target: TargetProfile) -> Self {
        Self {
            target,
            context: None,
            max_batch: 1,
            max_kv_size: None,
            memory_budget: None,
            plan_only: false,
            n_threads: None,
            progress: None,
        }
    }
}

/// Compiles a checkpoint (a folder, or a GGUF file) to the artifact `out` and gives its plan. A file that is there is
/// replaced once the new one is whole.
///
/// ```
/// use ingot::{CompileOptions, LoadOptions, Model, compiler::TargetProfile};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("tales.ingot");
/// let options = CompileOptions::new(TargetProfile::cpu());
/// let plan = ingot::compile("../../models/ingot-tales-1m".as_ref(), &file, options)?;
/// let model = Model::load(&file, LoadOptions::default())?;
/// assert_eq!(model.facts().n_kernels, plan.kernels.len());
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
/// ```
/// use ingot::{CompileOptions, RandomShape, compiler::TargetProfile};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("made-up.ingot");
/// let shape = RandomShape { n_layers: 1, n_vocab: 1024, ..RandomShape::named("smollm2-135m")? };
/// let plan = ingot::compile_random(&shape, &file, CompileOptions::new(TargetProfile::cpu()))?;
/// assert_eq!(plan.n_vocab, 1024);
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// As [`compile`], and those of [`RandomShape::graph`].
pub fn compile_random(shape: &RandomShape, out: &Path, options: CompileOptions<'_>) -> Result<Plan, Error> {
    compile_lowered(&Lowered::random(shape)?.limited(options.max_kv_size)?, out, options)
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
    let mut none = |_, _| {};
    let progress = options.progress.unwrap_or(&mut none);
    artifact::write(out, &plan, &model.eos_ids, &files, weights, n_threads, progress)?;
    Ok(plan)
}
