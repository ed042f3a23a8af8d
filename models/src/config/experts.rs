//! Mixtures of experts: how many there are, how many a token takes, and in which layers.

use super::Architecture;
use super::fields::Fields;
use crate::error::Result;
use serde_json::Value;
use std::collections::BTreeSet;

/// A mixture of experts in place of the MLP of some layers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExpertSpec {
    /// Experts of a layer.
    pub n_experts: u32,
    /// Experts that a token takes.
    pub n_active: u32,
    /// Width of an expert.
    pub intermediate_size: u32,
    /// Whether a token's shares are divided by their sum.
    pub renormalize: bool,
    /// Whether each layer is such a mixture; others have an MLP.
    pub layers: Vec<bool>,
}

/// The experts of an architecture that has them.
pub(super) fn experts(
    fields: &Fields<'_>,
    architecture: Architecture,
    n_layers: u32,
    intermediate_size: u32,
) -> Result<Option<ExpertSpec>> {
    match architecture {
        Architecture::Mixtral => {
            let n_experts = fields.u32_or("num_local_experts", 1..=4096, 8)?;
            Ok(Some(ExpertSpec {
                n_experts,
                n_active: active(fields, n_experts, 2)?,
                intermediate_size,
                renormalize: true,
                layers: vec![true; n_layers as usize],
            }))
        }
        Architecture::Qwen3Moe => {
            let n_experts = match fields.opt_u32("num_experts", 1..=4096)? {
                Some(n) => n,
                None => fields.u32_or("num_local_experts", 1..=4096, 128)?,
            };
            Ok(Some(ExpertSpec {
                n_experts,
                n_active: active(fields, n_experts, 8)?,
                intermediate_size: fields.u32_or("moe_intermediate_size", 1..=1 << 22, 768)?,
                renormalize: fields.opt_bool("norm_topk_prob")?.unwrap_or(false),
                layers: sparse_layers(fields, n_layers)?,
            }))
        }
        _ => Ok(None),
    }
}

/// Every `decoder_sparse_step`-th layer, but for those in `mlp_only_layers`.
fn sparse_layers(fields: &Fields<'_>, n_layers: u32) -> Result<Vec<bool>> {
    let step = fields.u32_or("decoder_sparse_step", 1..=4096, 1)?;
    let dense = match fields.get("mlp_only_layers") {
        None => BTreeSet::new(),
        Some(list) => {
            let number = |item: &Value| item.as_u64();
            let list: Option<BTreeSet<u64>> = list.as_array().and_then(|list| list.iter().map(number).collect());
            list.ok_or_else(|| fields.wrong("mlp_only_layers", "a list of numbers of layers"))?
        }
    };
    Ok((0..n_layers).map(|layer| (layer + 1).is_multiple_of(step) && !dense.contains(&u64::from(layer))).collect())
}

fn active(fields: &Fields<'_>, n_experts: u32, default: u32) -> Result<u32> {
    fields.u32_or("num_experts_per_tok", 1..=n_experts.min(64), default.min(n_experts))
}
