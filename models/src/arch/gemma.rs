//! Gemma, its three generations: embeddings times the root of the width, norms about 1, GELU; from the second on norms of
//! what attention and MLP add; in the third norms of heads.

use crate::blocks::{Extras, Lowering, decoder};
use crate::config::{Architecture, ModelSpec};
use crate::error::Result;

pub(super) fn build(spec: &ModelSpec, to: &mut Lowering<'_>) -> Result<()> {
    let (post_norms, head_norms) =
        (spec.architecture != Architecture::Gemma, spec.architecture == Architecture::Gemma3);
    let (qkv_bias, out_bias) = (spec.attention_bias, spec.attention_bias);
    decoder(spec, to, Extras { qkv_bias, out_bias, norms_plus_one: true, post_norms, head_norms, ..Extras::default() })
}
