//! What GGUF calls tensors, and what a Hugging Face folder (of a mixture's experts, an MLX folder) calls them.

use crate::config::Architecture;

/// The shape of a file's model, as far as names and orders depend on it.
pub(super) struct Shape {
    pub architecture: Architecture,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

/// Whether rows of q and k stand in an order in which rotary pairs are neighbours.
pub(crate) fn pairs_rows(architecture: Architecture) -> bool {
    use Architecture::{Granite, Llama, Mistral, Mixtral};
    matches!(architecture, Llama | Mistral | Mixtral | Granite)
}

/// Whether norms hold their weights, where a folder holds how far those are from 1.
pub(crate) fn whole_norms(architecture: Architecture) -> bool {
    matches!(architecture, Architecture::Gemma | Architecture::Gemma2 | Architecture::Gemma3)
}

/// Modules of the whole model: GGUF's name and the module's path.
const MODULES: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Modules of a layer: GGUF's `blk.3.NAME` is `model.layers.3.PATH`.
const LAYER_MODULES: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", FUSED_QKV),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Queries, keys and values one below the other, as llama.cpp's converter writes them with `--fuse-qkv`.
pub(super) const FUSED_QKV: &str = "self_attn.qkv_proj";

/// Single experts of a layer in files from before there were stacks: `blk.3.ffn_gate.7` is `model.layers.3.PATH.7.w1`.
const MIXTRAL_EXPERTS: &str = "block_sparse_moe.experts";
const MIXTRAL_EXPERT: [(&str, &str); 3] = [("ffn_gate", "w1"), ("ffn_up", "w3"), ("ffn_down", "w2")];

/// Where what attention and MLP add is normed too, the norms of a layer that have other paths.
const POST_NORM_MODULES: [(&str, &str); 3] = [
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// The router, and stacks of a layer's experts.
const MIXTRAL_MODULES: [(&str, &str); 4] = [
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
    ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
    ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
];
const QWEN3_MOE_MODULES: [(&str, &str); 4] = [
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
];

/// Modules of a layer, those that go before the others first.
fn layer_modules(architecture: Architecture) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let special: &[_] = match architecture {
        Architecture::Gemma2 | Architecture::Gemma3 => &POST_NORM_MODULES,
        Architecture::Mixtral => &MIXTRAL_MODULES,
        Architecture::Qwen3Moe => &QWEN3_MOE_MODULES,
        _ => &[],
    };
    special.iter().chain(&LAYER_MODULES)
}

/// The module's path of a tensor: `blk.3.attn_q.weight` is the weight of `model.layers.3.self_attn.q_proj`. The second part is
/// the tensor's ending, `weight` or `bias`.
pub(super) fn module(name: &str, architecture: Architecture) -> Option<(String, &str)> {
    let (stem, ending) = name.rsplit_once('.').filter(|(_, ending)| matches!(*ending, "weight" | "bias"))?;
    if let Some((_, path)) = MODULES.iter().find(|(own, _)| *own == stem) {
        return Some(((*path).to_owned(), ending));
    }
    let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    layer.parse::<u32>().ok()?;
    let path = match layer_modules(architecture).find(|(own, _)| *own == part) {
        Some((_, path)) => (*path).to_owned(),
        None => expert_path(part, architecture)?,
    };
    Some((format!("model.layers.{layer}.{path}"), ending))
}

/// The path within its layer of a single expert's `ffn_gate.7`.
fn expert_path(part: &str, architecture: Architecture) -> Option<String> {
    let (own, expert) = part.split_once('.').filter(|_| architecture == Architecture::Mixtral)?;
    let (_, path) = MIXTRAL_EXPERT.iter().find(|(name, _)| *name == own)?;
    expert.parse::<u32>().ok().map(|expert| format!("{MIXTRAL_EXPERTS}.{expert}.{path}"))
}

/// The other way.
fn expert_name(path: &str, architecture: Architecture) -> Option<String> {
    let expert = path.strip_prefix(MIXTRAL_EXPERTS).filter(|_| architecture == Architecture::Mixtral)?;
    let (expert, part) = expert.strip_prefix('.')?.split_once('.')?;
    let (own, _) = MIXTRAL_EXPERT.iter().find(|(_, path)| *path == part)?;
    Some(format!("{own}.{expert}"))
}

/// GGUF's name of a tensor, the other way: that of `model.layers.3.self_attn.q_proj.weight` is `blk.3.attn_q.weight`. A language
/// model within one that does more has the names of one by itself.
pub(crate) fn gguf_name(tensor: &str, architecture: Architecture) -> Option<String> {
    let (stem, ending) = tensor.rsplit_once('.')?;
    let path = match stem.strip_prefix("model.language_model.") {
        Some(rest) => &format!("model.{rest}"),
        None => stem.strip_prefix("language_model.").unwrap_or(stem),
    };
    if let Some((own, _)) = MODULES.iter().find(|(_, known)| *known == path) {
        return Some(format!("{own}.{ending}"));
    }
    let (layer, part) = path.strip_prefix("model.layers.")?.split_once('.')?;
    let own = match layer_modules(architecture).find(|(_, path)| *path == part) {
        Some((own, _)) => (*own).to_owned(),
        None => expert_name(part, architecture)?,
    };
    Some(format!("blk.{layer}.{own}.{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_their_modules() {
        use Architecture::{Gemma2, Llama, Mixtral, Qwen3Moe};
        let with = |name, of| module(name, of).map(|(path, ending)| format!("{path} {ending}"));
        let of = |name| with(name, Llama);
        let norm = "model.layers.1.post_attention_layernorm weight";
        assert_eq!(of("blk.1.ffn_norm.weight").as_deref(), Some(norm));
        assert_eq!(with("blk.1.post_attention_norm.weight", Gemma2).as_deref(), Some(norm));
        assert_eq!(of("blk.1.post_attention_norm.weight"), None);
        assert_eq!(of("blk.12.ffn_down.weight").as_deref(), Some("model.layers.12.mlp.down_proj weight"));
        assert_eq!(of("blk.0.attn_q.bias").as_deref(), Some("model.layers.0.self_attn.q_proj bias"));
        assert_eq!(of("output.weight").as_deref(), Some("lm_head weight"));
        assert_eq!(of("blk.0.ffn_gate_inp.weight"), None);
        assert_eq!(
            with("blk.0.ffn_gate.7.weight", Mixtral).as_deref(),
            Some("model.layers.0.block_sparse_moe.experts.7.w1 weight")
        );
        assert_eq!(with("blk.0.ffn_gate.x.weight", Mixtral).or(of("blk.0.ffn_gate.7.weight")), None);
        for name in ["blk.x.attn_q.weight", "blk.1.attn_q.scale", "blk.1.ssm.weight", "weight", "v.weight"] {
            assert_eq!(of(name), None, "{name}");
        }
        for (name, of) in [
            ("blk.12.ffn_down.weight", Llama),
            ("blk.0.attn_q.bias", Llama),
            ("output.weight", Llama),
            ("output_norm.weight", Gemma2),
            ("blk.3.ffn_norm.weight", Gemma2),
            ("blk.3.ffn_norm.weight", Mixtral),
            ("blk.3.post_ffw_norm.weight", Gemma2),
            ("blk.3.ffn_gate_inp.weight", Mixtral),
            ("blk.3.ffn_down_exps.weight", Mixtral),
            ("blk.3.ffn_down.7.weight", Mixtral),
            ("blk.3.ffn_up_exps.weight", Qwen3Moe),
        ] {
            let (path, ending) = module(name, of).expect("known");
            assert_eq!(gguf_name(&format!("{path}.{ending}"), of).as_deref(), Some(name));
        }
        for root in ["language_model.model", "model.language_model"] {
            let of = |tensor: &str| gguf_name(&format!("{root}.{tensor}.weight"), Gemma2);
            assert_eq!(of("layers.1.mlp.up_proj").as_deref(), Some("blk.1.ffn_up.weight"));
            assert_eq!(of("embed_tokens").as_deref(), Some("token_embd.weight"));
        }
    }
}
