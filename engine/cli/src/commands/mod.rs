//! The subcommands, one a file.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod devices;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod logits;
pub(crate) mod compile;
pub(crate) mod inspect;
pub(crate) mod cache;
pub(crate) mod models;
pub(crate) mod cache_prompt;
pub(crate) mod tune;
pub(crate) mod profile;
pub(crate) mod doctor;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod quantize;
pub(crate) mod perplexity;
pub(crate) mod compare;
