//! Llama: norm before each half of a layer, grouped-query attention with rotated heads, gated MLP.

use crate::blocks::{AttentionBlock, Lowering, attention, gated_mlp, head, rms_norm};
use crate::config::ModelSpec;
use crate::error::Result;
use crate::rope::inv_freq;
use ingot_ir::graph::Op;
use ingot_ir::kv::Window;

pub(super) fn build(spec: &ModelSpec, to: &mut Lowering<'_>) -> Result<()> {
    let (hidden, eps) = (spec.hidden_size, spec.rms_norm_eps);
    let embedding = to.matrix("model.embed_tokens", spec.vocab_size, hidden)?;
    let freqs = to.inline(inv_freq(&spec.rope, spec.head_dim));
    let block = AttentionBlock {
        n_heads: spec.n_heads,
        n_kv_heads: spec.n_kv_heads,
        head_dim: spec.head_dim,
        freqs,
        has_bias: spec.attention_bias,
        window: Window::FULL,
    };
    let mut x = to.push(Op::Embed { parts: vec![embedding] })?;
    for layer in 0..spec.n_layers {
        let path = format!("model.layers.{layer}");
        let normed = rms_norm(to, x, &format!("{path}.input_layernorm.weight"), eps)?;
        let attended = attention(to, normed, &format!("{path}.self_attn"), &block)?;
        x = to.push(Op::Add { a: x, b: attended })?;
        let normed = rms_norm(to, x, &format!("{path}.post_attention_layernorm.weight"), eps)?;
        let mixed = gated_mlp(to, normed, &format!("{path}.mlp"), spec.intermediate_size, spec.mlp_bias)?;
        x = to.push(Op::Add { a: x, b: mixed })?;
    }
    let normed = rms_norm(to, x, "model.norm.weight", eps)?;
    // Old conversions stored the frequencies, which are computed here.
    to.ignore(|name| name.ends_with(".rotary_emb.inv_freq"));
    head(to, normed, "lm_head", embedding, spec.vocab_size, spec.tie_word_embeddings)
}
