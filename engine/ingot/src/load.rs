//! From a checkpoint folder to a loaded model.

use crate::Error;
use crate::checkpoint::Mapped;
use crate::device::{self, DeviceChoice};
use crate::model::Model;
use crate::random::{RandomShape, RandomWeights};
use ingot_compiler::{Options, TargetProfile};
use ingot_ir::graph::Graph;
use ingot_ir::plan::{Plan, PlanWeight};
use ingot_models::text::chat_template::ChatTemplate;
use ingot_models::text::tokenizer::Tokenizer;
use ingot_runtime::backend::Backend;
use ingot_runtime::cpu::execute::{CpuBackend, WeightSource};
use ingot_runtime::gpu::execute::{GpuBackend, LoadOptions as GpuLoad};
use ingot_runtime::gpu::{Adapter, Gpu, MemoryOptions, OpenOptions};
use ingot_runtime::world::{Limits, World};
use std::path::Path;
use std::sync::Arc;

/// Told while weights are loaded: bytes done, bytes in all.
pub type Progress = Box<dyn FnMut(u64, u64)>;

/// Changes a target before compilation.
pub type AdjustTarget = Box<dyn FnOnce(&mut TargetProfile)>;

/// How a model is loaded.
#[derive(Default)]
pub struct LoadOptions {
    /// What runs it.
    pub device: DeviceChoice,
    /// Longest sequence in tokens; `None` takes the model's, at most 8192.
    pub context: Option<u32>,
    /// Bytes that may be used; `None` asks the device.
    pub memory_budget: Option<u64>,
    /// Threads of the processor; `None` takes all.
    pub n_threads: Option<usize>,
    /// Told how far loading is.
    pub progress: Option<Progress>,
    /// Whether weights go to the GPU through mapped buffers; `None` decides by the kind of device.
    pub unified_memory: Option<bool>,
    /// Changes the target before compilation, e.g. for an adapter's feature to be left unused.
    pub adjust_target: Option<AdjustTarget>,
}

/// Longest sequence unless told otherwise.
pub(crate) const DEFAULT_CONTEXT: u32 = 8192;

/// Sequences at one time.
const MAX_SEQUENCES: u32 = 1;

impl Model {
    /// Loads the checkpoint in a folder: Hugging Face or MLX layout.
    pub fn load(folder: &Path, options: LoadOptions) -> Result<Self, Error> {
        let opened = ingot_models::Model::open(folder)?;
        let graph = opened.graph()?;
        let spec = opened.spec.clone();
        let context = context(options.context, spec.max_position_embeddings)?;
        // A checkpoint without a tokenizer still runs on token ids.
        let tokenizer = Tokenizer::load(folder, &spec.eos_ids);
        let template = ChatTemplate::load(folder);
        let mapped = Arc::new(Mapped(opened.checkpoint));
        let filler = Arc::clone(&mapped);
        let fill = move |weight: &PlanWeight, offset: u64, out: &mut [u8]| filler.fill(weight, offset, out);
        let (world, device) = load_graph(&graph, context, mapped, Box::new(fill), options)?;
        Ok(Self::new(world, device, tokenizer.map_err(Into::into), template.map_err(Into::into), spec.eos_ids))
    }

    /// Loads a model of a known shape with random weights, for measurements. It has no tokenizer.
    pub fn load_random(shape: &RandomShape, options: LoadOptions) -> Result<Self, Error> {
        let graph = shape.graph();
        let context = context(options.context, shape.max_context)?;
        let weights = Arc::new(RandomWeights::new(&graph));
        let filler = Arc::clone(&weights);
        let fill = move |weight: &PlanWeight, offset: u64, out: &mut [u8]| filler.fill(weight, offset, out);
        let (world, device) = load_graph(&graph, context, weights, Box::new(fill), options)?;
        Ok(Self::new(world, device, Err(Error::NoTokenizer), Ok(None), Vec::new()))
    }
}

fn context(asked: Option<u32>, most: u32) -> Result<u32, Error> {
    match asked {
        None => Ok(most.min(DEFAULT_CONTEXT)),
        Some(n) if (1..=most).contains(&n) => Ok(n),
        Some(found) => Err(Error::BadContext { found, allowed: format!("this model takes 1 to {most} tokens") }),
    }
}

type Fill = Box<dyn Fn(&PlanWeight, u64, &mut [u8])>;

fn load_graph(
    graph: &Graph,
    max_context: u32,
    source: Arc<dyn WeightSource>,
    fill: Fill,
    options: LoadOptions,
) -> Result<(World, String), Error> {
    let adapter = device::resolve(&options.device)?;
    let mut target = adapter.as_ref().map_or_else(TargetProfile::cpu, |adapter| device::target_of(adapter.info()));
    if let Some(adjust) = options.adjust_target {
        adjust(&mut target);
    }
    let plan = ingot_compiler::compile(graph, &target, Options { max_context })?;
    let limits = Limits { max_sequences: MAX_SEQUENCES, n_pages: plan.max_pages() * MAX_SEQUENCES };
    let n_threads = options.n_threads.unwrap_or_else(device::n_threads);
    let (backend, name) = match adapter {
        None => {
            let budget = options.memory_budget;
            let backend = CpuBackend::load(&plan, source, limits, n_threads, budget)?;
            (Backend::Cpu(Box::new(backend)), format!("CPU ({n_threads} threads)"))
        }
        Some(adapter) => {
            let name = adapter.info().name.clone();
            let memory = (options.memory_budget, options.unified_memory);
            (Backend::Gpu(Box::new(load_gpu(&adapter, &plan, limits, &*fill, memory, options.progress)?)), name)
        }
    };
    Ok((World::new(plan, backend, limits), name))
}

fn load_gpu(
    adapter: &Adapter,
    plan: &Plan,
    limits: Limits,
    fill: &dyn Fn(&PlanWeight, u64, &mut [u8]),
    (budget_bytes, unified): (Option<u64>, Option<bool>),
    progress: Option<Progress>,
) -> Result<GpuBackend, Error> {
    let gpu = Gpu::open(adapter, &OpenOptions { unified })?;
    let mut progress = progress.unwrap_or_else(|| Box::new(|_, _| {}));
    let load = GpuLoad {
        limits,
        memory: MemoryOptions { budget_bytes, ..MemoryOptions::default() },
        // The plan was compiled by this process from its own catalogue, so every kernel's source is ours.
        trusted: true,
        n_threads: device::n_threads(),
        progress: &mut *progress,
    };
    let mut fill = |weight: &PlanWeight, offset: u64, out: &mut [u8]| {
        fill(weight, offset, out);
        Ok(())
    };
    Ok(GpuBackend::load(gpu, plan, &mut fill, load)?)
}
