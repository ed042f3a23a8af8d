//! Qwen 3 with mixtures of experts: Qwen 3 in which most layers, usually all, have experts in place of the MLP.

use crate::blocks::{Extras, Lowering, decoder};
use crate::config::ModelSpec;
use crate::error::Result;

pub(super) fn build(spec: &ModelSpec, to: &mut Lowering<'_>) -> Result<()> {
    let qkv_bias = spec.attention_bias;
    decoder(spec, to, Extras { qkv_bias, out_bias: qkv_bias, head_norms: true, ..Extras::default() })
}
