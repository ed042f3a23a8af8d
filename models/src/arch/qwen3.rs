//! Qwen 3: Llama with a norm of every head of q and k before rotation; biases of the attention by configuration.

use crate::blocks::{Extras, Lowering, decoder};
use crate::config::ModelSpec;
use crate::error::Result;

pub(super) fn build(spec: &ModelSpec, to: &mut Lowering<'_>) -> Result<()> {
    let qkv_bias = spec.attention_bias;
    decoder(spec, to, Extras { qkv_bias, out_bias: qkv_bias, head_norms: true, ..Extras::default() })
}
