//! Ingot's compiler: an op graph and a target become a plan.
//!
//! [`pipeline`] is the list of passes in order. A pass has one file under `pass/`, whose first lines say what it
//! assumes and guarantees. `select/` turns groups of ops into kernels; `repack` is the one place that reads
//! weight bytes.
//!
//! Architecture invariant: no GPU library is in this crate's dependency tree, so that any machine can compile
//! for any target. The output depends on the graph and the target alone.

pub mod target;
pub mod pipeline;
pub mod pass;
pub mod select;
mod link;
mod tensor;
pub mod repack;
pub mod artifact;
pub mod emit;

use ingot_ir::IrError;
use ingot_ir::graph::ValueId;
use ingot_ir::memory::{Bytes, MemoryTable};
use thiserror::Error;

/// Tells builds of the compiler apart: a hash of its sources and the shaders'.
pub const FINGERPRINT: &str = env!("INGOT_COMPILER_FINGERPRINT");

pub use pipeline::{Options, Stage, compile, explain};
pub use select::tiles::{TileError, TileTable};
pub use target::TargetProfile;

/// Why a model cannot be compiled for a target.
#[derive(Debug, Error)]
pub enum CompileError {
    /// The catalogue has no kernel for an op in its place.
    #[error("{value}: no kernel computes `{op}` here ({why}); this model needs a kernel that Ingot does not have yet")]
    NoKernel {
        /// The op's value.
        value: ValueId,
        /// The op.
        op: &'static str,
        /// What was looked for.
        why: String,
    },
    /// A size that the target cannot take.
    #[error("{what} needs {needed} bytes, but target `{target}` binds at most {limit}")]
    TooLarge {
        /// The thing.
        what: String,
        /// Its size.
        needed: u64,
        /// The target's limit.
        limit: u64,
        /// The target.
        target: String,
    },
    /// A plan that takes more memory than it may.
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
    /// Keys and values that cannot be kept in the type asked for.
    #[error("{why}")]
    KvType {
        /// What does not fit.
        why: String,
    },
    /// A kernel that does not link: a fault of the catalogue, not of the model.
    #[error("kernel {kernel} does not link: {why}")]
    Link {
        /// Its spec in text.
        kernel: String,
        /// The linker's message.
        why: String,
    },
    /// Source of kernels that have none.
    #[error("target `{target}` runs native code, so its kernels have no source; choose another --target")]
    NoSource {
        /// The target.
        target: String,
    },
    /// A decoder layer that the model does not have.
    #[error("the model has no layer {layer}; it has {n_layers}, counted from 0")]
    NoLayer {
        /// The layer asked for.
        layer: u32,
        /// Layers of the model.
        n_layers: u32,
    },
    /// A pass broke a rule of the representation: a fault of the compiler.
    #[error("after pass `{pass}`: {source}")]
    Broken {
        /// The pass.
        pass: &'static str,
        /// The broken rule.
        source: IrError,
    },
}
