//! Llama: norm before each half of a layer, grouped-query attention with rotated heads, gated MLP; biases by configuration.

use crate::blocks::{Biases, Lowering, decoder};
use crate::config::ModelSpec;
use crate::error::Result;

pub(super) fn build(spec: &ModelSpec, to: &mut Lowering<'_>) -> Result<()> {
    let (attention, mlp) = (spec.attention_bias, spec.mlp_bias);
    decoder(spec, to, Biases { qkv: attention, out: attention, mlp })
}
