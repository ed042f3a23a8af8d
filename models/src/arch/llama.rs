//! Llama: norm before each half of a layer, grouped-query attention with rotated heads, gated MLP; biases by configuration.

use crate::blocks::{Extras, Lowering, decoder};
use crate::config::ModelSpec;
use crate::error::Result;

pub(super) fn build(spec: &ModelSpec, to: &mut Lowering<'_>) -> Result<()> {
    let (qkv_bias, mlp_bias) = (spec.attention_bias, spec.mlp_bias);
    decoder(spec, to, Extras { qkv_bias, out_bias: qkv_bias, mlp_bias, ..Extras::default() })
}
