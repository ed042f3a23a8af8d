//! The one error of the library.

use thiserror::Error;

/// What can go wrong between a checkpoint and its text.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint, its tokenizer or its chat template.
    #[error(transparent)]
    Model(#[from] ingot_models::Error),
    /// Compilation.
    #[error(transparent)]
    Compile(#[from] ingot_compiler::CompileError),
    /// Loading or running the plan.
    #[error(transparent)]
    Runtime(#[from] ingot_runtime::RuntimeError),
    /// A device that does not exist or does not open.
    #[error(transparent)]
    Device(#[from] ingot_runtime::gpu::GpuError),
    /// A tokenizer or chat template that could not be read, told when it is needed: a model runs on token ids without it.
    #[error("{0}")]
    Unusable(String),
    /// Something that needs a tokenizer.
    #[error("this model has no tokenizer; pass token ids")]
    NoTokenizer,
    /// A context that the model cannot hold.
    #[error("--context is {found}; {allowed}")]
    BadContext {
        /// What was asked for.
        found: u32,
        /// What is allowed.
        allowed: String,
    },
    /// A shape name that is not known.
    #[error("unknown shape `{found}`; known are: {known}")]
    UnknownShape {
        /// What was asked for.
        found: String,
        /// The known names.
        known: String,
    },
}
