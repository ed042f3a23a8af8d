//! The one error of the library.

use ingot_compiler::CompileError;
use ingot_ir::kv::KvType;
use ingot_ir::memory::{MemoryTable, counted};
use ingot_runtime::RuntimeError;
use thiserror::Error;

/// What can go wrong between a checkpoint and its text. Each prints as one line that says what to do.
///
/// ```
/// use ingot::{DeviceChoice, Error, LoadOptions, Model};
///
/// let options = LoadOptions { device: DeviceChoice::Cpu, context: Some(5000), ..LoadOptions::default() };
/// match Model::load("../../models/ingot-tales-1m".as_ref(), options).map(drop) {
///     Err(Error::BadContext { found: 5000, allowed }) => {
///         assert_eq!(allowed, "this model takes 1 to 1024 tokens, and more with --max-kv-size");
///     }
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint, its tokenizer or its chat template.
    #[error(transparent)]
    Model(#[from] ingot_models::Error),
    /// Compilation.
    #[error(transparent)]
    Compile(#[from] ingot_compiler::CompileError),
    /// Reading or writing an artifact.
    #[error(transparent)]
    Artifact(#[from] ingot_compiler::artifact::ArtifactError),
    /// A table of measured tiles.
    #[error(transparent)]
    Tiles(#[from] ingot_compiler::TileError),
    /// A text that is too short to be scored.
    #[error("the text has {}; at least 2 are needed to predict one", counted(*n_tokens as u64, "token"))]
    ShortText {
        /// Its tokens.
        n_tokens: usize,
    },
    /// Windows of a text that are longer than the context.
    #[error(
        "windows of {n_tokens} tokens do not fit into the context of {context}; lower --sequence-length, or raise --context as far \
         as the model's own"
    )]
    LongWindow {
        /// Tokens of a window.
        n_tokens: usize,
        /// What the model was loaded for.
        context: u32,
    },
    /// Models whose predictions do not belong to the same tokens.
    #[error("the models cannot be compared: {why}")]
    NotComparable {
        /// What differs.
        why: String,
    },
    /// A model that predicts nothing at a token of a text.
    #[error(
        "{model}: no prediction of token {index} of the text: {why}; its weights or their conversion are broken, or the \
         device computes wrongly: try --device cpu, then convert or fetch the model again"
    )]
    NoPrediction {
        /// Where the model was loaded from.
        model: String,
        /// The token's place in the text.
        index: usize,
        /// What its logits are.
        why: String,
    },
    /// Tuning on the processor.
    #[error(
        "tiles belong to GPU kernels, and this device is the CPU; choose a GPU with --device (see `ingot devices`)"
    )]
    NotTunable,
    /// No place for what is kept.
    #[error("there is no data folder: neither INGOT_HOME nor HOME is set; set one, or use --output")]
    NoDataFolder,
    /// The system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An artifact for another kind of device.
    #[error("{}: compiled for target `{target}`, which does not run on {device}; {advice}", path.display())]
    OtherTarget {
        /// The artifact.
        path: std::path::PathBuf,
        /// What it was compiled for.
        target: String,
        /// The device that was to run it.
        device: String,
        /// What to run instead.
        advice: String,
    },
    /// A plan that was kept without weights.
    #[error("{}: holds a plan without weights; compile the model with `ingot compile`", path.display())]
    NoWeights {
        /// The artifact.
        path: std::path::PathBuf,
    },
    /// Weights that are not what the artifact's plan takes.
    #[error("{}: {why}; compile the model again with `ingot compile`", path.display())]
    BadWeights {
        /// The artifact.
        path: std::path::PathBuf,
        /// What is missing.
        why: String,
    },
    /// Loading or running the plan.
    #[error("{}{}", .0, beyond(.0))]
    Runtime(#[from] ingot_runtime::RuntimeError),
    /// A device that does not exist or does not open.
    #[error(transparent)]
    Device(#[from] ingot_runtime::gpu::GpuError),
    /// Activations of 8 bits where there are no instructions for them.
    #[error(
        "{target} has no products of packed 8-bit integers, subgroups and f16 together, which int8 activations need; \
         leave --activations out"
    )]
    NoInt8 {
        /// What it was to be compiled for.
        target: String,
    },
    /// Activations of 8 bits for a plan that is compiled already.
    #[error("the kernels of an artifact are fixed; compile it again with --activations int8, or leave the flag out")]
    CompiledActivations,
    /// A tokenizer or chat template that could not be read, told when it is needed: a model runs on token ids without it.
    #[error("{0}")]
    Unusable(String),
    /// Something that needs a tokenizer.
    #[error("this model has no tokenizer; pass token ids")]
    NoTokenizer,
    /// No thread for an engine.
    #[error("the system gives no thread for the engine: {0}")]
    Thread(std::io::Error),
    /// More requests than an engine keeps in line.
    #[error("{n_waiting} requests wait already; try again later")]
    Busy {
        /// Requests that wait.
        n_waiting: usize,
    },
    /// The engine's thread has ended.
    #[error("the engine has ended; start it again")]
    EngineGone,
    /// What ended all answers of an engine or a batch.
    #[error(transparent)]
    Shared(#[from] std::sync::Arc<Error>),
    /// An answer that was asked for after an error.
    #[error("the answer ended with an error, which its pieces have told")]
    StreamFailed,
    /// A step that the loaded plan cannot run.
    #[error("there is no such step: {0}; ask for less, or raise --context or --max-batch")]
    BadStep(String),
    /// A context that the model cannot hold.
    #[error("--context is {found}; {allowed}")]
    BadContext {
        /// What was asked for.
        found: u32,
        /// What is allowed.
        allowed: String,
    },
    /// More sequences than an artifact was compiled for.
    #[error("--max-batch is {found}; this artifact was compiled for {most}; compile it again with --max-batch {found}")]
    BadBatch {
        /// What was asked for.
        found: u32,
        /// What it was compiled for.
        most: u32,
    },
    /// A file of a prompt's keys and values that does not go with the model.
    #[error("{}: {why}", path.display())]
    OtherPromptCache {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A prompt whose keys and values found no room.
    #[error("the cache has no room for the prompt; raise --context")]
    PromptGone,
    /// A limit of the cache that leaves too little.
    #[error("--max-kv-size is {found}; it must be {least} or more")]
    BadKvSize {
        /// What was asked for.
        found: u32,
        /// The smallest.
        least: u32,
    },
    /// A limit of the cache for an artifact, whose kernels have theirs.
    #[error("--max-kv-size is part of what an artifact is compiled for; compile the model again with it")]
    FixedKvSize,
    /// Tiles or another target for an artifact, whose kernels are made.
    #[error("the kernels of an artifact are fixed; compile the model again with --tiles, or leave the flag out")]
    FixedKernels,
    /// More tokens a step than an artifact was compiled for.
    #[error("--prefill-step-size is {found}; this artifact takes at most {most} tokens a step")]
    BadStepSize {
        /// What was asked for.
        found: u32,
        /// What it was compiled for.
        most: u32,
    },
    /// Another type of keys and values than an artifact was compiled for.
    #[error(
        "keys and values are asked for as {asked}; this artifact was compiled for {found}; \
         compile it again with other --kv-dtype or --kv-bits, or leave the flag out"
    )]
    BadKvType {
        /// What was asked for.
        asked: KvType,
        /// What it was compiled for.
        found: KvType,
    },
    /// A shape name that is not known.
    #[error("unknown shape `{found}`; known are: {known}")]
    UnknownShape {
        /// What was asked for.
        found: String,
        /// The known names.
        known: String,
    },
    /// A random model's format that is not known, or whose blocks do not divide the shape's rows.
    #[error(
        "`{found}` is no format of {shape}; write e.g. affine8g64_f16, affine4g64_bf16, mxfp4, mxfp8, nvfp4, q4_k, q6_k, \
         iq4_xs, f16, bf16 or f32, whose groups or blocks divide the rows of its matrices"
    )]
    UnknownFormat {
        /// What was asked for.
        found: String,
        /// The shape's name.
        shape: String,
    },
}

/// What else helps where a context may be the model's own.
fn beyond(error: &RuntimeError) -> &'static str {
    match error {
        RuntimeError::PromptTooLong { .. } => {
            "; where that is the model's own, --max-kv-size N goes on past it with N positions in the cache"
        }
        _ => "",
    }
}

impl Error {
    /// Where the bytes would go, if more are needed than there may be.
    ///
    /// ```
    /// use ingot::{DeviceChoice, LoadOptions, Model};
    ///
    /// let options = LoadOptions { device: DeviceChoice::Cpu, memory_budget: Some(1000), ..LoadOptions::default() };
    /// let error = Model::load("../../models/ingot-tales-1m".as_ref(), options).map(drop).unwrap_err();
    /// println!("{error}\n{}", error.memory_table().unwrap());
    /// assert!(error.memory_table().unwrap().total() > 1000);
    /// ```
    pub fn memory_table(&self) -> Option<&MemoryTable> {
        match self {
            Self::Compile(CompileError::OverBudget { table, .. }) => Some(table),
            Self::Runtime(RuntimeError::OverBudget { table, .. }) => Some(table),
            _ => None,
        }
    }
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
