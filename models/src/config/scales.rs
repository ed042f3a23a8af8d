//! Factors on what flows through a model, and bounds of scores and logits.

use super::Architecture;
use super::fields::Fields;
use crate::error::Result;

/// Factors and bounds. A factor of 1 and a bound of 0 are none.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scales {
    /// Factor on embeddings.
    pub embedding: f32,
    /// Factor on the scores of attention.
    pub attention: f32,
    /// Bound of the scores of attention: `cap * tanh(score / cap)`.
    pub attention_cap: f32,
    /// Factor on what attention and MLP add to the stream.
    pub residual: f32,
    /// Factor on logits.
    pub logits: f32,
    /// Bound of logits, likewise.
    pub logit_cap: f32,
}

/// Those of a family.
pub(super) fn scales(
    fields: &Fields<'_>,
    architecture: Architecture,
    hidden_size: u32,
    head_dim: u32,
) -> Result<Scales> {
    let number = |name: &str, default: f64| match fields.get(name) {
        Some(_) => fields.positive(name, 1e6),
        None => Ok(default),
    };
    let rsqrt = |n: f64| n.sqrt().recip() as f32;
    let plain = Scales {
        embedding: 1.0,
        attention: rsqrt(head_dim.into()),
        attention_cap: 0.0,
        residual: 1.0,
        logits: 1.0,
        logit_cap: 0.0,
    };
    let gemma = Scales { embedding: f64::from(hidden_size).sqrt() as f32, ..plain };
    // A bound that is null is none; one that is absent is that of transformers.
    let cap = |name: &str, default: f64| match fields.is_null(name) {
        true => Ok(0.0),
        false => number(name, default).map(|cap| cap as f32),
    };
    Ok(match architecture {
        Architecture::Llama
        | Architecture::Mistral
        | Architecture::Mixtral
        | Architecture::Qwen2
        | Architecture::Qwen3
        | Architecture::Qwen3Moe => plain,
        Architecture::Gemma => gemma,
        Architecture::Gemma2 => Scales {
            attention: rsqrt(number("query_pre_attn_scalar", 256.0)?),
            attention_cap: cap("attn_logit_softcapping", 50.0)?,
            logit_cap: cap("final_logit_softcapping", 30.0)?,
            ..gemma
        },
        Architecture::Gemma3 => Scales {
            attention: rsqrt(number("query_pre_attn_scalar", 256.0)?),
            attention_cap: cap("attn_logit_softcapping", 0.0)?,
            logit_cap: cap("final_logit_softcapping", 0.0)?,
            ..gemma
        },
        Architecture::Granite => Scales {
            embedding: number("embedding_multiplier", 1.0)? as f32,
            attention: number("attention_multiplier", 1.0)? as f32,
            residual: number("residual_multiplier", 1.0)? as f32,
            logits: number("logits_scaling", 1.0)?.recip() as f32,
            ..plain
        },
    })
}
