//! Checkpoints, tokenizers and chat templates: a checkpoint folder becomes a [`config::ModelSpec`], a
//! [`weights::WeightTable`], an op graph and text tools. No GPU, no compiler passes.
//!
//! Read in this order: [`hub`] (where checkpoints come from), [`formats`] (bytes), [`config`] (what the model is), [`weights`] (both
//! together), [`arch`] with its `blocks` (the op graph), [`model`] (all of it from a folder), [`text`] (text to ids and back),
//! [`mod@convert`] (a folder in another form).

pub mod arch;
mod blocks;
pub mod config;
pub mod convert;
pub mod error;
pub mod files;
pub mod formats;
pub mod hub;
pub mod model;
pub mod rope;
pub mod text;
pub mod weights;

pub use error::{Error, Result};
pub use files::Files;
pub use model::Model;
