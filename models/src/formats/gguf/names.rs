//! What GGUF calls tensors and settings, and what a Hugging Face folder calls them.

use super::{Gguf, GgufTensor};
use crate::config::{RopeScaling, RopeSpec};
use crate::error::{Error, Result};
use crate::rope;
use serde_json::{Map, Value, json};

/// Architectures of files that can be read, and the configuration's `model_type`.
const KNOWN: [(&str, &str); 7] = [
    ("llama", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3_text"),
    ("granite", "granite"),
];

/// The shape of a file's model, as far as names and orders depend on it.
pub(super) struct Shape {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// Whether rows of q and k stand in an order in which rotary pairs are neighbours.
    pub pairs_rows: bool,
    /// Whether what attention and MLP add is normed, which gives the norm before the MLP another name.
    pub post_norms: bool,
    /// Whether norms hold their weights, where a folder holds how far those are from 1.
    pub whole_norms: bool,
}

/// The module's path, or a vector's full name with `None`: `blk.3.attn_q.weight` is the weight of
/// `model.layers.3.self_attn.q_proj`. The second part is the tensor's ending, `weight` or `bias`.
pub(super) fn module<'a>(name: &'a str, shape: &Shape) -> Option<(String, &'a str)> {
    let (stem, ending) = name.rsplit_once('.').filter(|(_, ending)| matches!(*ending, "weight" | "bias"))?;
    let path = match stem {
        "token_embd" => "model.embed_tokens".to_owned(),
        "output_norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        _ => {
            let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            layer.parse::<u32>().ok()?;
            let part = match part {
                "attn_norm" => "input_layernorm",
                "ffn_norm" if shape.post_norms => "pre_feedforward_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "post_attention_norm" if shape.post_norms => "post_attention_layernorm",
                "post_ffw_norm" if shape.post_norms => "post_feedforward_layernorm",
                "attn_q_norm" => "self_attn.q_norm",
                "attn_k_norm" => "self_attn.k_norm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            format!("model.layers.{layer}.{part}")
        }
    };
    Some((path, ending))
}

/// The configuration that a Hugging Face folder of the model would have, and its shape. Settings are in the first part of a
/// split file, tensors in any.
pub(super) fn config(parts: &[Gguf]) -> Result<(Value, Shape)> {
    let file = &parts[0];
    let tensor = |name: &str| parts.iter().find_map(|part| Some((part, find(part, name)?)));
    let metadata = file.metadata();
    let wrong = |key: &str, allowed: &str| Error::Field {
        path: file.path().to_path_buf(),
        field: key.to_owned(),
        found: metadata.get(key).map_or("absent".into(), Value::to_string),
        allowed: allowed.to_owned(),
    };
    let architecture = metadata.get("general.architecture").and_then(Value::as_str).unwrap_or("");
    let Some((_, model_type)) = KNOWN.iter().find(|(name, _)| *name == architecture) else {
        return Err(Error::UnknownArchitecture {
            path: file.path().to_path_buf(),
            found: architecture.to_owned(),
            known: KNOWN.map(|(name, _)| name).join(", "),
        });
    };
    let key = |name: &str| format!("{architecture}.{name}");
    let get = |name: &str| metadata.get(&key(name));
    let number = |name: &str| {
        let found = get(name).and_then(Value::as_u64).filter(|n| (1..1 << 31).contains(n));
        found.ok_or_else(|| wrong(&key(name), "a whole number above 0"))
    };
    let optional = |name: &str| get(name).map(|_| number(name)).transpose();
    let float = |name: &str| get(name).and_then(Value::as_f64);
    let (hidden, n_heads) = (number("embedding_length")?, number("attention.head_count")?);
    let n_kv_heads = optional("attention.head_count_kv")?.unwrap_or(n_heads);
    let head_dim = match optional("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if hidden % n_heads == 0 => hidden / n_heads,
        None => return Err(wrong(&key("attention.head_count"), "a divisor of embedding_length")),
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if optional(name)?.is_some_and(|n| n != head_dim) {
            return Err(wrong(&key(name), &format!("{head_dim}, as the heads of keys are")));
        }
    }
    let vocabulary = metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(|list| list.len() as u64);
    let table = tensor("token_embd.weight").map(|(_, table)| table);
    let n_vocab = table.and_then(|tensor| tensor.shape.first().map(|n| *n as u64)).or(vocabulary);
    let has = |name: &str| tensor(name).is_some();
    let context = number("context_length")?;
    let theta = float("rope.freq_base").unwrap_or(10_000.0);
    let mut config = json!({
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length")?,
        "num_hidden_layers": number("block_count")?,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "rms_norm_eps": float("attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
        "rope_theta": theta,
        "vocab_size": n_vocab.ok_or_else(|| wrong("tokenizer.ggml.tokens", "a list of tokens"))?,
        "tie_word_embeddings": !has("output.weight"),
        "hidden_act": "silu",
    });
    let fields = config.as_object_mut().expect("an object was just made");
    let mut put = |name: &str, value: Value| fields.insert(name.into(), value);
    if matches!(architecture, "llama" | "qwen3" | "granite") {
        put("attention_bias", has("blk.0.attn_q.bias").into());
        put("mlp_bias", has("blk.0.ffn_gate.bias").into());
    }
    // The largest model of a generation has a factor of its own, by which llama.cpp's converter tells nothing.
    let largest = match architecture {
        "gemma2" => Some(46),
        "gemma3" => Some(62),
        _ => None,
    };
    if let Some(layers) = largest {
        let is_largest = number("block_count")? == layers;
        put("query_pre_attn_scalar", if is_largest { hidden / n_heads } else { head_dim }.into());
        for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(cap) = float(name) {
                put(name, cap.into());
            }
        }
    }
    if architecture.starts_with("gemma") {
        put("hidden_activation", "gelu_pytorch_tanh".into());
    }
    match (architecture, optional("attention.sliding_window")?) {
        ("gemma2", window) => {
            put("sliding_window", window.unwrap_or(4096).into());
        }
        ("gemma3", Some(window)) => {
            put("sliding_window", window.into());
            put("sliding_window_pattern", optional("attention.sliding_window_pattern")?.unwrap_or(6).into());
            put("rope_local_base_freq", float("rope.freq_base_swa").unwrap_or(10_000.0).into());
        }
        ("qwen2" | "qwen3", Some(window)) => {
            put("sliding_window", window.into());
            put("use_sliding_window", false.into());
        }
        _ => {}
    }
    for (name, ours) in [
        ("embedding_scale", "embedding_multiplier"),
        ("attention.scale", "attention_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ] {
        if let Some(factor) = float(name).filter(|_| architecture == "granite") {
            put(ours, factor.into());
        }
    }
    if let Some(scaling) = rope_scaling(file, tensor(FREQS), architecture, theta, head_dim as u32)? {
        fields.insert("rope_scaling".into(), scaling);
    }
    token_ids(metadata, fields);
    let pairs_rows = matches!(architecture, "llama" | "granite");
    let post_norms = matches!(architecture, "gemma2" | "gemma3");
    let whole_norms = post_norms || architecture == "gemma";
    let (n_heads, n_kv_heads, head_dim) = (n_heads as usize, n_kv_heads as usize, head_dim as usize);
    Ok((config, Shape { n_heads, n_kv_heads, head_dim, pairs_rows, post_norms, whole_norms }))
}

/// Ids with a role. A turn's end ends a text too.
fn token_ids(metadata: &std::collections::BTreeMap<String, Value>, fields: &mut Map<String, Value>) {
    let id = |role: &str| metadata.get(&format!("tokenizer.ggml.{role}_token_id")).and_then(Value::as_u64);
    if let Some(bos) = id("bos") {
        fields.insert("bos_token_id".into(), bos.into());
    }
    let mut ends: Vec<u64> = ["eos", "eot", "eom"].into_iter().filter_map(id).collect();
    ends.sort_unstable();
    ends.dedup();
    if !ends.is_empty() {
        fields.insert("eos_token_id".into(), ends.into());
    }
}

fn find<'a>(part: &'a Gguf, name: &str) -> Option<&'a GgufTensor> {
    part.tensors().iter().find(|tensor| tensor.name == name)
}

/// `factors` are those of the frequencies, and the part that they are in.
fn rope_scaling(
    file: &Gguf,
    factors: Option<(&Gguf, &GgufTensor)>,
    architecture: &str,
    theta: f64,
    head_dim: u32,
) -> Result<Option<Value>> {
    let get = |name: &str| file.metadata().get(&format!("{architecture}.rope.scaling.{name}"));
    let factor = get("factor").and_then(Value::as_f64);
    let original = get("original_context_length").and_then(Value::as_u64);
    match get("type").and_then(Value::as_str) {
        Some("linear") => return Ok(Some(json!({ "rope_type": "linear", "factor": factor }))),
        Some("yarn") => {
            let mut scaling = json!({ "rope_type": "yarn", "factor": factor });
            if let Some(original) = original {
                scaling["original_max_position_embeddings"] = original.into();
            }
            return Ok(Some(scaling));
        }
        None | Some("none") => {}
        Some(other) => {
            let what = format!("rope scaling `{other}` is not supported; none, linear and yarn are");
            return Err(Error::Unsupported { path: file.path().to_path_buf(), what });
        }
    }
    let Some((part, tensor)) = factors else { return Ok(None) };
    let factors = tensor.stored.float().and_then(|stored| stored.to_f32s(part.bytes(tensor))).unwrap_or_default();
    if factors.len() != head_dim as usize / 2 {
        return Err(Error::tensor(
            part.path(),
            FREQS,
            format!("has {} factors for heads of {head_dim}", factors.len()),
        ));
    }
    // The file holds what the frequencies are divided by; of published models these are the settings that it can be.
    for (factor, original) in [8.0, 32.0, 16.0, 4.0].into_iter().flat_map(|f| [(f, 8192u32), (f, 4096), (f, 2048)]) {
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: original,
        };
        let plain = rope::inv_freq(&RopeSpec { theta, scaling: RopeScaling::None }, head_dim);
        let scaled = rope::inv_freq(&RopeSpec { theta, scaling }, head_dim);
        let alike = |((plain, scaled), factor): ((&f32, &f32), &f32)| (plain / factor / scaled - 1.0).abs() < 1e-3;
        if plain.iter().zip(&scaled).zip(&factors).all(alike) {
            return Ok(Some(json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            })));
        }
    }
    let what = "these rotary factors are no published model's".to_owned();
    Err(Error::tensor(part.path(), FREQS, what))
}

/// The tensor of rotary factors.
pub(super) const FREQS: &str = "rope_freqs.weight";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_their_modules() {
        let shape = |post_norms| Shape {
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            pairs_rows: false,
            post_norms,
            whole_norms: post_norms,
        };
        let with = |name, post_norms| module(name, &shape(post_norms)).map(|(path, ending)| format!("{path} {ending}"));
        let of = |name| with(name, false);
        let norm = "model.layers.1.post_attention_layernorm weight";
        assert_eq!(of("blk.1.ffn_norm.weight").as_deref(), Some(norm));
        assert_eq!(with("blk.1.post_attention_norm.weight", true).as_deref(), Some(norm));
        assert_eq!(of("blk.1.post_attention_norm.weight"), None);
        assert_eq!(of("blk.12.ffn_down.weight").as_deref(), Some("model.layers.12.mlp.down_proj weight"));
        assert_eq!(of("blk.0.attn_q.bias").as_deref(), Some("model.layers.0.self_attn.q_proj bias"));
        assert_eq!(of("output.weight").as_deref(), Some("lm_head weight"));
        for name in ["blk.x.attn_q.weight", "blk.1.attn_q.scale", "blk.1.ssm.weight", "weight", "v.weight"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
