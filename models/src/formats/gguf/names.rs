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

/// Modules of the whole model: GGUF's name and the module's path.
const MODULES: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Modules of a layer: GGUF's `blk.3.NAME` is `model.layers.3.PATH`.
const LAYER_MODULES: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Where what attention and MLP add is normed too, the norms of a layer that have other paths.
const POST_NORM_MODULES: [(&str, &str); 3] = [
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Modules of a layer, those that go before the others first.
fn layer_modules(post_norms: bool) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let special: &[_] = if post_norms { &POST_NORM_MODULES } else { &[] };
    special.iter().chain(&LAYER_MODULES)
}

/// The module's path of a tensor: `blk.3.attn_q.weight` is the weight of `model.layers.3.self_attn.q_proj`. The second part is
/// the tensor's ending, `weight` or `bias`.
pub(super) fn module<'a>(name: &'a str, shape: &Shape) -> Option<(String, &'a str)> {
    let (stem, ending) = name.rsplit_once('.').filter(|(_, ending)| matches!(*ending, "weight" | "bias"))?;
    if let Some((_, path)) = MODULES.iter().find(|(own, _)| *own == stem) {
        return Some(((*path).to_owned(), ending));
    }
    let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    layer.parse::<u32>().ok()?;
    let (_, path) = layer_modules(shape.post_norms).find(|(own, _)| *own == part)?;
    Some((format!("model.layers.{layer}.{path}"), ending))
}

/// GGUF's name of a tensor, the other way: that of `model.layers.3.self_attn.q_proj.weight` is `blk.3.attn_q.weight`.
pub(crate) fn gguf_name(tensor: &str) -> Option<String> {
    let (stem, ending) = tensor.rsplit_once('.')?;
    if let Some((own, _)) = MODULES.iter().find(|(_, path)| *path == stem) {
        return Some(format!("{own}.{ending}"));
    }
    let (layer, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    let (own, _) = LAYER_MODULES.iter().find(|(_, path)| *path == part)?;
    Some(format!("blk.{layer}.{own}.{ending}"))
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
    if metadata.get(&key("expert_count")).and_then(Value::as_u64).is_some_and(|n| n > 0) {
        let what =
            "is a mixture of experts, which is not read from GGUF yet; take the folder that it was made of".into();
        return Err(Error::Unsupported { path: file.path().to_path_buf(), what });
    }
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
    let scaling = llama3(&factors, theta, head_dim).ok_or_else(|| {
        let what = "these rotary factors are not those of a scaling as Llama 3 has it, the only one that is known";
        Error::tensor(part.path(), FREQS, what)
    })?;
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } = scaling else {
        return Ok(None);
    };
    Ok(Some(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
        "original_max_position_embeddings": original_max_positions,
    })))
}

/// The scaling that divides frequencies by `factors`. Files hold these alone; settings of published models are tried
/// first, and then those that follow of the factors between 1 and the greatest.
fn llama3(factors: &[f32], theta: f64, head_dim: u32) -> Option<RopeScaling> {
    let plain = rope::inv_freq(&RopeSpec { theta, scaling: RopeScaling::None }, head_dim);
    let scaling = |factor: f64, low: f64, high: f64, original: u32| RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_positions: original,
    };
    let divides = |scaling: &RopeScaling| {
        let scaled = rope::inv_freq(&RopeSpec { theta, scaling: *scaling }, head_dim);
        let alike = |((plain, scaled), factor): ((&f32, &f32), &f32)| (plain / factor / scaled - 1.0).abs() < 1e-4;
        plain.iter().zip(&scaled).zip(factors).all(alike)
    };
    let originals = [8192u32, 4096, 2048];
    let published = [8.0, 32.0, 16.0, 4.0].into_iter().flat_map(|f| originals.map(|n| scaling(f, 1.0, 4.0, n)));
    let greatest = f64::from(factors.iter().copied().fold(1.0, f32::max));
    // Where a frequency is blended, 1 / factor goes in a line with the turns over the original context.
    let turns = |ix: usize| f64::from(originals[0]) * f64::from(plain[ix]) / (2.0 * std::f64::consts::PI);
    let kept = |ix: usize| (1.0 / f64::from(factors[ix]) - 1.0 / greatest) / (1.0 - 1.0 / greatest);
    let between: Vec<usize> = (0..factors.len()).filter(|ix| (1e-3..1.0 - 1e-3).contains(&kept(*ix))).collect();
    let fitted = match between[..] {
        [first, .., last] => {
            let slope = (kept(first) - kept(last)) / (turns(first) - turns(last));
            let low = turns(last) - kept(last) / slope;
            Some((low, low + 1.0 / slope))
        }
        // With fewer, any limits between the neighbours will do that give that one.
        [only] => {
            Some((turns(only) - kept(only) * turns(only) * 1e-2, turns(only) + (1.0 - kept(only)) * turns(only) * 1e-2))
        }
        [] => {
            let last_kept = (0..factors.len()).rev().find(|ix| factors[*ix] < 1.0 + 1e-3);
            last_kept.map(|ix| (turns(ix) * 0.98, turns(ix) * 0.99))
        }
    };
    let fitted = fitted.map(|(low, high)| scaling(greatest, low, high, originals[0]));
    published.chain(fitted).find(divides)
}

/// The tensor of rotary factors.
pub(crate) const FREQS: &str = "rope_freqs.weight";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalings_are_found_from_their_factors() {
        for (factor, low, high, original, theta, head_dim) in [
            (8.0, 1.0, 4.0, 8192, 500_000.0, 128),
            (32.0, 1.0, 4.0, 8192, 500_000.0, 64),
            (6.5, 1.5, 7.0, 3000, 10_000.0, 64),
            (4.0, 1.0, 4.0, 64, 10_000.0, 32),
            (8.0, 1.0, 1.01, 8192, 10_000.0, 16),
        ] {
            let scaling = RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions: original,
            };
            let freqs = |scaling| rope::inv_freq(&RopeSpec { theta, scaling }, head_dim);
            let (plain, scaled) = (freqs(RopeScaling::None), freqs(scaling));
            let factors: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
            let found = llama3(&factors, theta, head_dim).unwrap_or_else(|| panic!("{scaling:?}: {factors:?}"));
            for (found, scaled) in freqs(found).iter().zip(&scaled) {
                assert!((found / scaled - 1.0).abs() < 1e-4, "{scaling:?}");
            }
        }
        // Falling and rising again is no scaling of this kind.
        assert_eq!(llama3(&[1.0, 4.0, 1.0, 4.0], 10_000.0, 8), None);
    }

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
        for name in ["blk.12.ffn_down.weight", "blk.0.attn_q.bias", "output.weight", "output_norm.weight"] {
            let (path, ending) = module(name, &shape(false)).expect("known");
            assert_eq!(gguf_name(&format!("{path}.{ending}")).as_deref(), Some(name));
        }
    }
}
