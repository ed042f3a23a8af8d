//! Ingot's intermediate representations: pure data, no behaviour beyond checking and printing.
//!
//! A checkpoint becomes a [`graph::Graph`] (semantic ops), the compiler turns that into one
//! [`kernel::KernelGraph`] a bucket (one node a dispatch), and all of them into a [`plan::Plan`]
//! (flat tables that a runtime executes without deciding anything). Each has a text form that parses
//! back to an equal value, and a verifier.
//!
//! The ragged batch contract, which compiler, CPU and GPU share, is [`step`]; the paged KV cache is [`kv`].
//!
//! Architecture invariant: this crate knows no file format, no shader and no device.

pub mod handle;
pub mod size;
pub mod weight;
pub mod kv;
pub mod step;
pub mod text;
pub mod graph;
pub mod moe;
mod graph_text;
pub mod kernel;
mod kernel_text;
pub mod plan;
pub mod memory;
pub mod cost;
mod plan_text;
mod plan_verify;
mod spec_verify;

use thiserror::Error;

/// A representation that breaks one of its own rules. The message names the item (`v3`, `k12`, `d7`).
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum IrError {
    /// A line of the text form that does not parse.
    #[error("line {line}: {why}")]
    Parse {
        /// Line of the text, from 1.
        line: usize,
        /// What was expected and what was found.
        why: String,
    },
    /// A rule that a verifier checks.
    #[error("{item}: {why}")]
    Invalid {
        /// The item's handle as printed.
        item: String,
        /// The broken rule, with the numbers.
        why: String,
    },
}

impl IrError {
    pub(crate) fn invalid(item: impl std::fmt::Display, why: impl Into<String>) -> Self {
        Self::Invalid { item: item.to_string(), why: why.into() }
    }
}
