//! Mistral: Llama without biases; the layers of some versions see a sliding window.

use crate::blocks::{Extras, Lowering, decoder};
use crate::config::ModelSpec;
use crate::error::Result;

pub(super) fn build(spec: &ModelSpec, to: &mut Lowering<'_>) -> Result<()> {
    decoder(spec, to, Extras::default())
}
