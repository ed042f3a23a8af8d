//! From a checkpoint folder or an artifact to a loaded model.

use crate::Error;
use crate::cache::Cache;
use crate::device::{self, DeviceChoice, Place};
use crate::hub::{self, HubSettings};
use crate::language::Language;
use crate::lower::Lowered;
use crate::model::Model;
use crate::random::RandomShape;
use crate::tiles::Tiles;
use crate::weights::Weights;
use ingot_compiler::artifact::{Artifact, WeightsAt};
use ingot_compiler::{Options, TargetProfile};
use ingot_ir::kv::KvType;
use ingot_ir::memory::counted;
use ingot_ir::plan::{BlobId, Plan, PlanWeight};
use ingot_models::Files;
use ingot_models::formats::gguf::is_gguf;
use ingot_models::text::chat_template::ChatTemplate;
use ingot_models::text::tokenizer::Tokenizer;
use ingot_runtime::account::Account;
use ingot_runtime::backend::Backend;
use ingot_runtime::cpu::execute::{CpuBackend, CpuOptions};
use ingot_runtime::cpu::{Activations, Int8Level};
use ingot_runtime::gpu::execute::{GpuBackend, LoadOptions as GpuLoad};
use ingot_runtime::gpu::{Gpu, MemoryOptions};
use ingot_runtime::world::{Limits, World};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Told how far loading is: bytes done, bytes in all. That is while a model is fetched from a hub, and while weights are
/// uploaded to a GPU; the processor reads them where they lie.
///
/// ```
/// use ingot::{LoadOptions, Progress};
///
/// let show: Progress = Box::new(|done, total| eprint!("\r{} %", 100 * done / total.max(1)));
/// let options = LoadOptions { progress: Some(show), ..LoadOptions::default() };
/// # assert!(options.progress.is_some());
/// ```
pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

/// Changes a target before compilation.
///
/// ```
/// use ingot::{AdjustTarget, DeviceChoice, LoadOptions, Model};
///
/// let small_steps: AdjustTarget = Box::new(|target| target.prefill_tokens = 64);
/// # let (device, adjust_target) = (DeviceChoice::Cpu, Some(small_steps));
/// # let options = LoadOptions { device, adjust_target, ..LoadOptions::default() };
/// let model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
/// assert_eq!(model.facts().max_step_tokens, 64);
/// # Ok::<(), ingot::Error>(())
/// ```
pub type AdjustTarget = Box<dyn FnOnce(&mut TargetProfile) + Send>;

/// How a model is loaded.
///
/// ```
/// use ingot::{DeviceChoice, LoadOptions, Model};
///
/// let options = LoadOptions {
///     device: DeviceChoice::Cpu,
///     context: Some(512),      // tokens of the longest sequence
///     max_batch: 2,            // sequences at one time
///     max_kv_size: Some(128),  // of which the cache holds 128
///     ..LoadOptions::default()
/// };
/// let model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
/// assert_eq!(model.facts().max_context, 512);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Default)]
pub struct LoadOptions {
    /// What runs it. `Auto` takes what an artifact was compiled for.
    pub device: DeviceChoice,
    /// Longest sequence in tokens; `None` takes the model's, at most 8192, or the artifact's.
    pub context: Option<u32>,
    /// Sequences at one time; 0 takes one, or the artifact's.
    pub max_batch: u32,
    /// Bytes that may be used; `None` asks the device.
    pub memory_budget: Option<u64>,
    /// Threads of the processor; `None` takes all.
    pub n_threads: Option<usize>,
    /// Where the model's memory is counted, together with other models'; a limit of it holds for all.
    pub memory: Account,
    /// An opened device in place of `device`: the program's own, or that of another model.
    pub gpu: Option<Gpu>,
    /// Told how far loading is.
    pub progress: Option<Progress>,
    /// Whether weights go to the GPU through mapped buffers; `None` decides by the kind of device.
    pub unified_memory: Option<bool>,
    /// Changes the target before compilation, e.g. for an adapter's feature to be left unused. An artifact is refused with it.
    pub adjust_target: Option<AdjustTarget>,
    /// Where compiled plans and pipelines are kept for the next load.
    pub cache: Cache,
    /// Measured tiles that a checkpoint is compiled with; an artifact has its own, and is refused with others than
    /// [`Tiles::Stored`].
    pub tiles: Tiles,
    /// Takes an artifact's weights without comparing them with their hashes.
    pub skip_verification: bool,
    /// The hub, for a model that is named as `owner/name[:QUANT][@revision]`; `None` takes what the environment says.
    pub hub: Option<HubSettings>,
    /// Type of keys and values in the cache; `None` takes the device's, or an artifact's. An artifact has one type.
    pub kv_type: Option<KvType>,
    /// Positions that the cache holds of a sequence at most: of a longer one the first 4 and the newest. Layers with a
    /// shorter window keep it. Sequences then go on past the model's own context. An artifact has its own limit.
    pub max_kv_size: Option<u32>,
    /// Tokens that the cache has room for, all sequences together; `None` gives each the whole context. With less, requests
    /// wait for each other; where the older ones need its pages, the youngest is set back and read again later. One that
    /// needs more by itself ends with [`FinishReason::KvFull`](crate::FinishReason).
    pub kv_tokens: Option<u32>,
    /// Tokens of a prompt that are read in one step; `None` takes the device's number, or the artifact's.
    pub prefill_step_size: Option<u32>,
    /// What quantized matrices are multiplied with. On a GPU [`Activations::Int8`] rounds what products of few rows with codes
    /// of 4 and 8 bits read (but experts, and products whose norm is not done before), and needs f16, subgroups and integer dot products; without it a GPU that has f16 reads f16.
    pub activations: Activations,
}

/// Everything that a device needs to begin.
struct Prepared {
    plan: Plan,
    /// Whether every kernel is this compiler's own.
    trusted: bool,
    weights: Arc<Weights>,
    /// The longest sequence that is wanted: the plan's or less.
    context: u32,
    /// Sequences at one time: the plan's or less.
    max_batch: u32,
}

impl Model {
    /// Loads a checkpoint folder (Hugging Face or MLX layout), a GGUF file, an artifact (`.ingot`), or a model of a hub
    /// (`owner/name[:QUANT][@revision]`), which is fetched into the hub's cache first.
    ///
    /// ```
    /// use ingot::{DeviceChoice, LoadOptions, Model};
    ///
    /// let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    /// let model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
    /// assert!(model.device().starts_with("CPU"));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the hub, the checkpoint or artifact, of the compiler, and of the device.
    pub fn load(path: &Path, mut options: LoadOptions) -> Result<Self, Error> {
        let asked = path;
        let path = &hub::locate(path, options.hub.as_ref(), options.progress.as_mut())?;
        // Any other file is taken for an artifact, so that its error says what it is not.
        let mut model = if path.is_file() && !is_gguf(path) {
            Self::load_artifact(path, options)?
        } else {
            Self::load_lowered(Lowered::checkpoint(path)?, options)?
        };
        model.set_origin(hub::name_of(asked));
        Ok(model)
    }

    /// Loads a model of a known shape with random weights, for measurements. It has no tokenizer.
    ///
    /// ```
    /// use ingot::{DeviceChoice, LoadOptions, Model, RandomShape};
    ///
    /// let shape = RandomShape { n_layers: 1, n_vocab: 1024, ..RandomShape::named("smollm2-135m")? };
    /// let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    /// let mut model = Model::load_random(&shape, options)?;
    /// let (logits, n_vocab) = model.logits(&[1, 2])?;
    /// assert_eq!((logits.len(), n_vocab), (2048, 1024));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::load`], and those of [`RandomShape::graph`].
    pub fn load_random(shape: &RandomShape, options: LoadOptions) -> Result<Self, Error> {
        Self::load_lowered(Lowered::random(shape)?, options)
    }

    pub(crate) fn load_lowered(model: Lowered, mut options: LoadOptions) -> Result<Self, Error> {
        let mut model = model.limited(options.max_kv_size)?;
        let max_context = model.context(options.context)?;
        let place = device::place(&options.device, options.gpu.take())?;
        let mut target = place.as_ref().map_or_else(TargetProfile::cpu, |place| device::target_of(place.info()));
        options.tiles.set(&mut target, place.as_ref().map(|place| place.info().name.as_str()))?;
        target.kv_type = options.kv_type.unwrap_or(target.kv_type);
        target.prefill_tokens = options.prefill_step_size.map_or(target.prefill_tokens, |n| n.clamp(1, max_context));
        round_activations(&mut target, options.activations)?;
        if let Some(adjust) = options.adjust_target.take() {
            adjust(&mut target);
        }
        if let (Weights::Random(random), None) = (&mut model.weights, &place) {
            random.spread();
        }
        let text = Text::read(model.files, &model.eos_ids);
        let max_batch = options.max_batch.max(1);
        // The budget is the device's affair here: it is asked when the plan is loaded.
        let compile = Options { max_batch, ..Options::new(max_context) };
        let (plan, trusted) = options.cache.plan(&model.graph, &target, compile)?;
        let weights = Arc::new(model.weights);
        // Random weights are large and worth nothing once they are loaded; files are only mapped.
        let source = matches!(*weights, Weights::Checkpoint(_)).then(|| Arc::clone(&weights));
        let prepared = Prepared { plan, trusted, weights, context: max_context, max_batch };
        Ok(text.join(start(prepared, place, options)?, model.eos_ids, source))
    }

    fn load_artifact(path: &Path, mut options: LoadOptions) -> Result<Self, Error> {
        let artifact = Arc::new(Artifact::open(path)?);
        let place = device::resolve_for(&options.device, options.gpu.take(), artifact.plan(), path)?;
        if options.max_kv_size.is_some() {
            return Err(Error::FixedKvSize);
        }
        if options.tiles != Tiles::Stored || options.adjust_target.is_some() {
            return Err(Error::FixedKernels);
        }
        let most = artifact.plan().max_bounds().tokens;
        if let Some(found) = options.prefill_step_size.filter(|n| *n > most) {
            return Err(Error::BadStepSize { found, most });
        }
        let most = artifact.plan().max_context;
        let context = match options.context {
            Some(found) if found > most => {
                let allowed =
                    format!("this artifact was compiled for {most} tokens; compile it again with --context {found}");
                return Err(Error::BadContext { found, allowed });
            }
            Some(found @ 0) => {
                return Err(Error::BadContext { found, allowed: format!("this artifact takes 1 to {most} tokens") });
            }
            asked => asked.unwrap_or(most),
        };
        if place.is_some() && options.activations != Activations::F32 {
            return Err(Error::CompiledActivations);
        }
        let max_batch = match (options.max_batch, artifact.plan().max_batch) {
            (0, most) => most,
            (asked, most) if asked <= most => asked,
            (found, most) => return Err(Error::BadBatch { found, most }),
        };
        if let Some(asked) = options.kv_type.filter(|asked| *asked != artifact.plan().kv_type) {
            return Err(Error::BadKvType { asked, found: artifact.plan().kv_type });
        }
        let files = artifact.files().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        let eos_ids = artifact.manifest().eos_ids.clone();
        let files = Files::held(path, files);
        let (plan, trusted) = (artifact.plan().clone(), artifact.is_trusted());
        artifact.check_sources()?;
        let n_threads = options.n_threads.unwrap_or_else(device::n_threads);
        let weights = match artifact.manifest().weights {
            WeightsAt::Inside => Weights::Artifact(Arc::clone(&artifact)),
            WeightsAt::Sources => {
                let paths: Vec<PathBuf> =
                    artifact.manifest().sources.iter().map(|source| source.path.clone()).collect();
                Weights::of_checkpoint(ingot_models::Model::open_weights(path, &paths, &files)?)
            }
            WeightsAt::Elsewhere => return Err(Error::NoWeights { path: path.to_path_buf() }),
        };
        weights.check(&plan).map_err(|why| Error::BadWeights { path: path.to_path_buf(), why })?;
        let text = Text::read(Some(files), &eos_ids);
        let weights = Arc::new(weights);
        let source = Some(Arc::clone(&weights));
        let prepared = Prepared { plan, trusted, weights, context, max_batch };
        let verify = !options.skip_verification;
        // Hashing waits for memory, uploading for the bus: side by side they cost as much as the longer one.
        let (checked, started) = std::thread::scope(|scope| {
            let check = || artifact.verify_weights(n_threads);
            let thread = verify.then(|| std::thread::Builder::new().spawn_scoped(scope, check));
            let started = start(prepared, place, options);
            let checked = match thread {
                None => Ok(()),
                Some(Ok(thread)) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // The system gives no thread.
                Some(Err(_)) => check(),
            };
            (checked, started)
        });
        checked?;
        Ok(text.join(started?, eos_ids, source))
    }
}

/// Has the kernels that are compiled for a target round what they read; for [`CompileOptions`](crate::CompileOptions), as
/// loading does it by [`LoadOptions::activations`]. Plans of the processor are the same either way.
///
/// ```
/// use ingot::{Activations, compiler::TargetProfile, round_activations};
///
/// let mut target = TargetProfile::nvidia();
/// round_activations(&mut target, Activations::Int8)?;
/// assert!(target.int8_activations);
/// assert!(round_activations(&mut TargetProfile::lavapipe(), Activations::Int8).is_err());
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// [`Error::NoInt8`] if the target lacks instructions that this needs.
pub fn round_activations(target: &mut TargetProfile, activations: Activations) -> Result<(), Error> {
    target.int8_activations = activations == Activations::Int8 && !target.is_cpu;
    let limits = &target.limits;
    let lanes = limits.subgroup.map_or(0, |(least, _)| least);
    let can = target.subgroups && lanes >= 4 && limits.f16 && limits.integer_dot;
    if target.int8_activations && !can {
        return Err(Error::NoInt8 { target: target.name.clone() });
    }
    Ok(())
}

/// Tokenizer and chat template, read beside the weights: a large vocabulary takes as long as an upload.
enum Text {
    /// Of a model without files.
    None,
    UnderWay(std::thread::JoinHandle<ReadText>),
    Read(Box<ReadText>),
}

type ReadText = (Result<Tokenizer, Error>, Result<Option<ChatTemplate>, Error>);

impl Text {
    fn read(files: Option<Files>, eos_ids: &[u32]) -> Self {
        let Some(files) = files else { return Self::None };
        let read = |files: &Files, eos_ids: &[u32]| {
            // A checkpoint without a tokenizer still runs on token ids.
            (Tokenizer::load(files, eos_ids).map_err(Into::into), ChatTemplate::load(files).map_err(Into::into))
        };
        let (own_files, own_ids) = (files.clone(), eos_ids.to_vec());
        match std::thread::Builder::new().spawn(move || read(&own_files, &own_ids)) {
            Ok(thread) => Self::UnderWay(thread),
            // The system gives no thread.
            Err(_) => Self::Read(Box::new(read(&files, eos_ids))),
        }
    }

    fn join(self, (world, device): (World, String), eos_ids: Vec<u32>, source: Option<Arc<Weights>>) -> Model {
        let none = || (Err(Error::NoTokenizer), Ok(None));
        let read = match self {
            Self::None => Ok(none()),
            Self::UnderWay(thread) => thread.join(),
            Self::Read(text) => Ok(*text),
        };
        // A file that the reader panics on is as bad as one that it refuses: the model still runs on ids.
        let unusable = || Error::Unusable("the tokenizer is damaged; fetch the model again, or pass token ids".into());
        let (tokenizer, template) = read.unwrap_or_else(|_| (Err(unusable()), Err(unusable())));
        Model::new(world, device, Language::new(tokenizer, template, eos_ids), source)
    }
}

/// Allocates, uploads and makes pipelines. Gives the device's name too.
fn start(prepared: Prepared, place: Option<Place>, options: LoadOptions) -> Result<(World, String), Error> {
    let Prepared { mut plan, trusted, weights, context, max_batch } = prepared;
    let mut limits = Limits::new(&plan, max_batch, context);
    let most = options.kv_tokens.map_or(u32::MAX, |n| n.div_ceil(plan.page_tokens).max(1));
    limits.n_pages.iter_mut().for_each(|n| *n = most.min(*n));
    let n_threads = options.n_threads.unwrap_or_else(device::n_threads);
    let chunk = options.prefill_step_size.unwrap_or(u32::MAX).max(1);
    let (backend, name) = match place {
        None => {
            let (budget_bytes, account) = (options.memory_budget, options.memory);
            let cpu = CpuOptions { n_threads, budget_bytes, account, activations: options.activations };
            let source = Arc::clone(&weights);
            let backend = CpuBackend::load(&plan, source, limits.clone(), cpu)?;
            weights.release_made();
            let rounded = match options.activations {
                Activations::F32 => String::new(),
                Activations::Int8 => format!(", int8 activations with {}", Int8Level::detect().name()),
            };
            (Backend::Cpu(Box::new(backend)), format!("CPU ({}{rounded})", counted(n_threads as u64, "thread")))
        }
        Some(place) => {
            let name = place.info().name.clone();
            (Backend::Gpu(Box::new(start_gpu(&place, &plan, trusted, &weights, limits.clone(), options)?)), name)
        }
    };
    // There are pages for this much; the world refuses longer requests.
    plan.max_context = context;
    let mut world = World::new(plan, backend, limits);
    world.max_chunk = chunk;
    Ok((world, name))
}

fn start_gpu(
    place: &Place,
    plan: &Plan,
    trusted: bool,
    weights: &Weights,
    limits: Limits,
    options: LoadOptions,
) -> Result<GpuBackend, Error> {
    let gpu = place.open(options.unified_memory)?;
    let driver = format!("{} {} {}", gpu.info().name, gpu.info().backend, gpu.info().driver);
    let kept = options.cache.pipelines(&driver);
    let mut pipelines = kept.clone();
    let mut progress = options.progress.unwrap_or_else(|| Box::new(|_, _| {}));
    let load = GpuLoad {
        limits,
        memory: MemoryOptions {
            budget_bytes: options.memory_budget,
            shared: options.memory,
            ..MemoryOptions::default()
        },
        trusted,
        n_threads: device::n_threads(),
        pipeline_cache: Some(&mut pipelines),
        alike: matches!(weights, Weights::Random(_)),
        progress: &mut *progress,
    };
    let mut fill = |id: BlobId, weight: &PlanWeight, offset: u64, out: &mut [u8]| {
        weights.fill(id, weight, offset, out);
        Ok(())
    };
    let backend = GpuBackend::load(gpu, plan, &mut fill, load)?;
    if pipelines != kept {
        options.cache.keep_pipelines(&driver, &pipelines);
    }
    Ok(backend)
}
