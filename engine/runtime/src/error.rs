//! What can go wrong while a plan is loaded or run.

use ingot_ir::memory::{Bytes, MemoryTable};
use thiserror::Error;

/// An error of the runtime.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The plan was made for another kind of device.
    #[error(
        "the plan was compiled for target `{target}`, which does not run on {device}; compile the model for this device"
    )]
    WrongTarget {
        /// The plan's target.
        target: String,
        /// The device.
        device: String,
    },
    /// The plan breaks a rule of its representation.
    #[error("the plan is damaged: {0}; compile the model again")]
    BadPlan(#[from] ingot_ir::IrError),
    /// Too little memory for what was asked.
    #[error(
        "needs {} ({} weights, {} KV pages for {}), but the budget is {budget}; \
         lower --context or --max-batch, or raise --memory-budget",
        Bytes(table.total()), Bytes(table.weights), Bytes(table.kv), table.sequences()
    )]
    OverBudget {
        /// Where the bytes would go.
        table: MemoryTable,
        /// What may be used.
        budget: Bytes,
    },
    /// A layer's pages that no binding of the device can hold.
    #[error(
        "the KV cache of one layer needs {needed} for {context} tokens, but the device binds at most {limit}; lower --context"
    )]
    PoolTooLarge {
        /// Bytes of one layer's pages.
        needed: Bytes,
        /// Tokens that the pages are for.
        context: u32,
        /// Largest binding.
        limit: Bytes,
    },
    /// Columns of sequences that no binding of the device can hold.
    #[error(
        "what is kept of {n_sequences} sequences' tokens needs {needed}, but the device binds at most {limit}; lower --max-batch or --context"
    )]
    TooManySequences {
        /// Bytes of all sequences.
        needed: Bytes,
        /// Sequences.
        n_sequences: u32,
        /// Largest binding.
        limit: Bytes,
    },
    /// A prompt without tokens.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// A prompt that leaves no room for an answer.
    #[error("the prompt has {n_prompt} tokens, but the context holds {max_context}; shorten it or raise --context")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// The longest sequence.
        max_context: u32,
    },
    /// A token id that the model does not have.
    #[error("token id {id} is not in the vocabulary of {n_vocab}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        n_vocab: u32,
    },
    /// A sampling parameter out of range.
    #[error("{name} is {value}; it must be {allowed}")]
    BadSampling {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Keys and values that do not go into a layer's pages, or out of them.
    #[error("keys and values of {layer} cannot be kept: {why}")]
    KeptKv {
        /// The layer.
        layer: ingot_ir::kv::KvLayerId,
        /// What is wrong.
        why: String,
    },
    /// The graphics device failed.
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
    /// A worker of the CPU runtime failed.
    #[error("the CPU runtime cannot execute the plan: {0}")]
    Cpu(String),
}
