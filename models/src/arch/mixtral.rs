//! Mixtral: Mistral with a mixture of experts in place of the MLP.

use crate::blocks::{Extras, Lowering, decoder};
use crate::config::ModelSpec;
use crate::error::Result;

pub(super) fn build(spec: &ModelSpec, to: &mut Lowering<'_>) -> Result<()> {
    decoder(spec, to, Extras::default())
}
