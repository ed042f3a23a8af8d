//! Qwen 2: Llama with biases of q, k and v; layers from `max_window_layers` on may see a sliding window.

use crate::blocks::{Extras, Lowering, decoder};
use crate::config::ModelSpec;
use crate::error::Result;

pub(super) fn build(spec: &ModelSpec, to: &mut Lowering<'_>) -> Result<()> {
    decoder(spec, to, Extras { qkv_bias: true, ..Extras::default() })
}
