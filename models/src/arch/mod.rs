//! The architectures, one file each: a checked [`ModelSpec`] and the checkpoint's table of weights become a [`Graph`].

mod gemma;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use crate::blocks::Lowering;
use crate::config::{Architecture, ModelSpec};
use crate::error::Result;
use crate::weights::WeightTable;
use ingot_ir::graph::Graph;

/// Lowers a model to the op graph. Reads shapes and types of the weights, not their bytes.
///
/// # Errors
/// A tensor that is missing, of the wrong type or shape, or that the architecture does not use (the configuration then
/// describes another model).
pub fn build(spec: &ModelSpec, weights: WeightTable<'_>) -> Result<Graph> {
    let name = format!("{} {} layers, {} wide", spec.architecture.name(), spec.n_layers, spec.hidden_size);
    let mut lowering = Lowering::new(name, weights);
    match spec.architecture {
        Architecture::Llama => llama::build(spec, &mut lowering)?,
        Architecture::Mistral => mistral::build(spec, &mut lowering)?,
        Architecture::Mixtral => mixtral::build(spec, &mut lowering)?,
        Architecture::Qwen2 => qwen2::build(spec, &mut lowering)?,
        Architecture::Qwen3 => qwen3::build(spec, &mut lowering)?,
        Architecture::Gemma | Architecture::Gemma2 | Architecture::Gemma3 => gemma::build(spec, &mut lowering)?,
        Architecture::Granite => granite::build(spec, &mut lowering)?,
        Architecture::Qwen3Moe => qwen3_moe::build(spec, &mut lowering)?,
    }
    lowering.finish()
}
