//! Checkpoints, tokenizers and chat templates: a checkpoint folder becomes a [`config::ModelSpec`], a
//! [`weights::WeightTable`] and text tools. No GPU, no compiler passes.
//!
//! Read in this order: [`formats`] (bytes), [`config`] (what the model is), [`weights`] (both together), [`rope`],
//! [`text`] (text to ids and back).

pub mod error;
pub mod formats;
pub mod config;
pub mod weights;
pub mod rope;
pub mod text;

pub use error::{Error, Result};
