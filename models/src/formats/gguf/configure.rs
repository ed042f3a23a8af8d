//! A file's settings as the configuration that a Hugging Face folder of the model would have.

use super::names::Shape;
use super::scaling::{FREQS, rope_scaling};
use super::text::{CONTROL, UNKNOWN, USER_DEFINED, role_id};
use super::{Gguf, GgufTensor};
use crate::config::Architecture;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Architectures of files that can be read, and what they are here. Files of Llama's are Mistral's too where they tell of a
/// window, and Mixtral's where they tell of experts.
pub(crate) const KNOWN: [(&str, Architecture); 8] = [
    ("llama", Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("qwen3moe", Architecture::Qwen3Moe),
    ("gemma", Architecture::Gemma),
    ("gemma2", Architecture::Gemma2),
    ("gemma3", Architecture::Gemma3),
    ("granite", Architecture::Granite),
];

/// Settings of a file's architecture.
pub(super) struct Settings<'a> {
    pub(super) file: &'a Gguf,
    /// GGUF's name of the architecture.
    name: &'a str,
}

impl<'a> Settings<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.file.metadata().get(&self.key(name))
    }
    pub(super) fn wrong(&self, name: &str, allowed: &str) -> Error {
        Error::Field {
            path: self.file.path().to_path_buf(),
            field: self.key(name),
            found: self.get(name).map_or("absent".into(), shown),
            allowed: allowed.to_owned(),
        }
    }
    fn number(&self, name: &str) -> Result<u64> {
        let found = self.get(name).and_then(Value::as_u64).filter(|n| (1..1 << 31).contains(n));
        found.ok_or_else(|| self.wrong(name, "a whole number above 0"))
    }
    pub(super) fn optional(&self, name: &str) -> Result<Option<u64>> {
        self.get(name).map(|_| self.number(name)).transpose()
    }
    /// A number that some converters tell of each layer.
    fn of_layers(&self, name: &str) -> Result<u64> {
        let Some([first, rest @ ..]) = self.get(name).and_then(Value::as_array).map(Vec::as_slice) else {
            return self.number(name);
        };
        let found = first.as_u64().filter(|n| (1..1 << 31).contains(n) && rest.iter().all(|other| other == first));
        found.ok_or_else(|| self.wrong(name, "a whole number above 0, the same for all layers"))
    }
    fn optional_of_layers(&self, name: &str) -> Result<Option<u64>> {
        self.get(name).map(|_| self.of_layers(name)).transpose()
    }
    fn float(&self, name: &str) -> Option<f64> {
        self.get(name).and_then(Value::as_f64)
    }
}

/// The configuration, and the model's shape. Settings are in the first part of a split file, tensors in any.
pub(super) fn config(parts: &[Gguf]) -> Result<(Value, Shape)> {
    let file = &parts[0];
    let tensor = |name: &str| parts.iter().find_map(|part| Some((part, find(part, name)?)));
    let has = |name: &str| tensor(name).is_some();
    let metadata = file.metadata();
    let name = metadata.get("general.architecture").and_then(Value::as_str).unwrap_or("");
    let Some((_, known)) = KNOWN.iter().find(|(own, _)| *own == name) else {
        return Err(Error::UnknownArchitecture {
            path: file.path().to_path_buf(),
            found: name.to_owned(),
            known: KNOWN.map(|(name, _)| name).join(", "),
        });
    };
    let settings = Settings { file, name };
    if settings.get("attention.causal").and_then(Value::as_bool) == Some(false) {
        return Err(
            settings.wrong("attention.causal", "true or absent: models that see later tokens are not supported")
        );
    }
    let mixture = mixture(&settings)?;
    let windows = windows(&settings, *known)?;
    let architecture = match *known {
        Architecture::Llama if mixture.is_some() => Architecture::Mixtral,
        Architecture::Llama if windows.is_some() => Architecture::Mistral,
        known => known,
    };
    let is_mixture = matches!(architecture, Architecture::Mixtral | Architecture::Qwen3Moe);
    if is_mixture != mixture.is_some() {
        let allowed =
            if is_mixture { "a whole number above 0" } else { "0: a mixture of experts is llama or qwen3moe" };
        return Err(settings.wrong("expert_count", allowed));
    }
    let (hidden, n_heads) = (settings.number("embedding_length")?, settings.of_layers("attention.head_count")?);
    let n_kv_heads = settings.optional_of_layers("attention.head_count_kv")?.unwrap_or(n_heads);
    let head_dim = match settings.optional("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if hidden % n_heads == 0 => hidden / n_heads,
        None => return Err(settings.wrong("attention.head_count", "a divisor of embedding_length")),
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if settings.optional(name)?.is_some_and(|n| n != head_dim) {
            return Err(settings.wrong(name, &format!("{head_dim}, as the heads of keys are")));
        }
    }
    let vocabulary = metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(|list| list.len() as u64);
    let table = tensor("token_embd.weight").map(|(_, table)| table);
    let n_vocab = table.and_then(|tensor| tensor.shape.first().map(|n| *n as u64)).or(vocabulary);
    let n_vocab = n_vocab.ok_or_else(|| Error::Field {
        path: file.path().to_path_buf(),
        field: "tokenizer.ggml.tokens".into(),
        found: "absent".into(),
        allowed: "a list of tokens".into(),
    })?;
    let theta = settings.float("rope.freq_base").unwrap_or(10_000.0);
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.into(), value);
    put("model_type", architecture.name().into());
    put("hidden_size", hidden.into());
    put("intermediate_size", settings.of_layers("feed_forward_length")?.into());
    put("num_hidden_layers", settings.number("block_count")?.into());
    put("num_attention_heads", n_heads.into());
    put("num_key_value_heads", n_kv_heads.into());
    put("head_dim", head_dim.into());
    put("max_position_embeddings", settings.number("context_length")?.into());
    put("rms_norm_eps", settings.float("attention.layer_norm_rms_epsilon").unwrap_or(1e-5).into());
    put("rope_theta", theta.into());
    put("vocab_size", n_vocab.into());
    put("tie_word_embeddings", (!has("output.weight")).into());
    put("hidden_act", "silu".into());
    use Architecture::{Granite, Llama, Qwen3, Qwen3Moe};
    if matches!(architecture, Llama | Qwen3 | Qwen3Moe | Granite) {
        put("attention_bias", (has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias")).into());
        put("mlp_bias", has("blk.0.ffn_gate.bias").into());
    }
    if name.starts_with("gemma") {
        put("hidden_activation", "gelu_pytorch_tanh".into());
    }
    if let Some(scalar) =
        query_pre_attn_scalar(architecture, settings.number("block_count")?, hidden / n_heads, head_dim)
    {
        put("query_pre_attn_scalar", scalar.into());
        for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(cap) = settings.float(name) {
                put(name, cap.into());
            }
        }
    }
    for (name, ours) in [
        ("embedding_scale", "embedding_multiplier"),
        ("attention.scale", "attention_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ] {
        if let Some(factor) = settings.float(name).filter(|_| architecture == Granite) {
            put(ours, factor.into());
        }
    }
    if let Some(scaling) = rope_scaling(&settings, tensor(FREQS), architecture, theta, head_dim as u32)? {
        put("rope_scaling", scaling);
    }
    fields.extend(windows.into_iter().flatten().chain(mixture.into_iter().flatten()));
    token_ids(metadata, &mut fields);
    let (n_heads, n_kv_heads, head_dim) = (n_heads as usize, n_kv_heads as usize, head_dim as usize);
    Ok((Value::Object(fields), Shape { architecture, n_heads, n_kv_heads, head_dim }))
}

/// What the root of the size of Gemma 2's and 3's queries is divided by. Files do not tell it: llama.cpp takes a head's size but for
/// the largest model of each generation, which it knows by the number of its layers and where it takes `embedding_length /
/// head_count` (`load_arch_hparams` of `src/models/gemma2.cpp` and `gemma3.cpp`). That makes 4608 / 32 = 144 for Gemma 2 27B
/// and 5376 / 32 = 168 for Gemma 3 27B, as `config.json` of `google/gemma-2-27b` and `google/gemma-3-27b-it` say (and
/// `get_config_for_27b` of Google's gemma_pytorch: `hidden_size / num_attention_heads`), where heads have 128. The other
/// published models have 256 for both.
pub(crate) fn query_pre_attn_scalar(
    architecture: Architecture,
    n_layers: u64,
    width: u64,
    head_dim: u64,
) -> Option<u64> {
    let largest = match architecture {
        Architecture::Gemma2 => 46,
        Architecture::Gemma3 => 62,
        _ => return None,
    };
    Some(if n_layers == largest { width } else { head_dim })
}

/// What a configuration tells of a mixture's experts; `None` if the file has none.
fn mixture(settings: &Settings<'_>) -> Result<Option<Map<String, Value>>> {
    if settings.get("expert_count").is_none_or(|n| n.as_u64() == Some(0)) {
        return Ok(None);
    }
    let (n_experts, n_active) = (settings.number("expert_count")?, settings.of_layers("expert_used_count")?);
    // Shares are those of a softmax, which is what 0, nothing in particular, means of these architectures too.
    if settings.get("expert_gating_func").is_some_and(|kind| !matches!(kind.as_u64(), Some(0 | 1))) {
        return Err(settings.wrong("expert_gating_func", "1, a softmax, or 0 or absent"));
    }
    if settings.float("expert_weights_scale").is_some_and(|scale| scale != 0.0 && scale != 1.0) {
        return Err(settings.wrong("expert_weights_scale", "absent or 1"));
    }
    // llama.cpp divides by the sum where files say nothing.
    let norm = settings.get("expert_weights_norm").and_then(Value::as_bool).unwrap_or(true);
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.into(), value);
    put("num_experts_per_tok", n_active.into());
    if settings.name == "qwen3moe" {
        let width = match settings.optional_of_layers("expert_feed_forward_length")? {
            Some(width) => width,
            None => settings.of_layers("feed_forward_length")? / n_active,
        };
        put("num_experts", n_experts.into());
        put("moe_intermediate_size", width.into());
        put("norm_topk_prob", norm.into());
        return Ok(Some(fields));
    }
    put("num_local_experts", n_experts.into());
    if !norm {
        return Err(settings.wrong("expert_weights_norm", "absent or true, as Mixtral has it"));
    }
    Ok(Some(fields))
}

/// Which layers slide where a file has a window and says nothing of layers: all but every `n`-th, 0 for all of them. Files of
/// others carry windows that their models do not use.
pub(crate) fn usual_pattern(architecture: Architecture) -> Option<u64> {
    use Architecture::{Gemma2, Gemma3, Llama, Mistral, Mixtral};
    match architecture {
        Llama | Mistral | Mixtral => Some(0),
        Gemma2 => Some(2),
        Gemma3 => Some(6),
        _ => None,
    }
}

/// Whether the layer slides in a model in which all but every `n`-th do.
pub(crate) fn slides(layer: u64, pattern: u64) -> bool {
    pattern == 0 || !(layer + 1).is_multiple_of(pattern)
}

/// What a configuration tells of windows; `None` if the file has none.
fn windows(settings: &Settings<'_>, architecture: Architecture) -> Result<Option<Map<String, Value>>> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let window = match settings.get("attention.sliding_window") {
        // llama.cpp assumes the one of the published models.
        None if architecture == Architecture::Gemma2 => 4096,
        None => return Ok(None),
        Some(n) if n.as_u64() == Some(0) => return Ok(None),
        Some(_) => settings.number("attention.sliding_window")?,
    };
    // As many as a configuration may have; the list is made from the number.
    let n_layers = settings.number("block_count")?;
    if n_layers > 4096 {
        return Err(settings.wrong("block_count", "at most 4096"));
    }
    let mut fields = Map::new();
    fields.insert("sliding_window".into(), window.into());
    let told = |pattern: &Value| -> Option<Vec<bool>> {
        let is_true = |value: &Value| value.as_bool().or_else(|| value.as_u64().map(|n| n != 0));
        match pattern.as_array() {
            Some(list) if list.len() as u64 == n_layers => list.iter().map(is_true).collect(),
            Some(_) => None,
            None => pattern.as_u64().map(|n| (0..n_layers).map(|layer| slides(layer, n)).collect()),
        }
    };
    let layers = match (settings.get(PATTERN), usual_pattern(architecture)) {
        (Some(pattern), _) => {
            told(pattern).ok_or_else(|| settings.wrong(PATTERN, &format!("a number, or a list of {n_layers}")))?
        }
        (None, Some(usual)) => (0..n_layers).map(|layer| slides(layer, usual)).collect(),
        (None, None) => {
            fields.insert("use_sliding_window".into(), false.into());
            return Ok(Some(fields));
        }
    };
    if architecture == Architecture::Gemma3 {
        let base = settings.float("rope.freq_base_swa").unwrap_or(10_000.0);
        fields.insert("rope_local_base_freq".into(), base.into());
        // mlx-lm reads this alone.
        if let Some(pattern) = settings.get(PATTERN).map_or(usual_pattern(architecture), Value::as_u64) {
            fields.insert("sliding_window_pattern".into(), pattern.into());
        }
    }
    let kind = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
    fields.insert("layer_types".into(), layers.into_iter().map(kind).collect());
    Ok(Some(fields))
}

/// Texts of tokens that end a turn or a text: llama.cpp knows them by these, since files often tell of one of several.
const ENDS: [&str; 21] = [
    "</s>",
    "<eos>",
    "[EOS]",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[e~[",
];

/// Ids with a role. A turn's end ends a text too.
fn token_ids(metadata: &BTreeMap<String, Value>, fields: &mut Map<String, Value>) {
    let id = |role: &str| role_id(metadata, role);
    if let Some(bos) = id("bos") {
        fields.insert("bos_token_id".into(), bos.into());
    }
    let mut ends: Vec<u64> = ["eos", "eot", "eom"].into_iter().filter_map(id).chain(known_ends(metadata)).collect();
    ends.sort_unstable();
    ends.dedup();
    if !ends.is_empty() {
        fields.insert("eos_token_id".into(), ends.into());
    }
}

/// Ids of [`ENDS`] among the tokens that are no ordinary text.
fn known_ends(metadata: &BTreeMap<String, Value>) -> Vec<u64> {
    let list = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}")).and_then(Value::as_array);
    let (Some(tokens), Some(kinds)) = (list("tokens"), list("token_type")) else { return Vec::new() };
    let special = |(id, (token, kind)): (usize, (&'_ Value, &Value))| {
        let (token, kind) = (token.as_str()?, kind.as_u64()?);
        let end = ENDS.into_iter().find(|end| *end == token)?;
        // `</s>` is a piece of HTML in some vocabularies.
        let is_end = matches!(kind, UNKNOWN | CONTROL) || (kind == USER_DEFINED && end != "</s>");
        is_end.then_some((id as u64, end))
    };
    let found: Vec<(u64, &str)> = tokens.iter().zip(kinds).enumerate().filter_map(special).collect();
    let has = |token: &str| found.iter().any(|(_, end)| *end == token);
    // In formats of channels `<|end|>` ends a message of several.
    let has_calls = has("<|call|>") || has("<|calls|>");
    let has_channels = has_calls && (has("<|return|>") || has("<|flush|>"));
    found.into_iter().filter(|(_, end)| !(has_channels && *end == "<|end|>")).map(|(id, _)| id).collect()
}

/// A value in a message, a long one cut.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(list) if list.len() > 8 => format!("a list of {}", list.len()),
        value => value.to_string(),
    }
}

fn find<'a>(part: &'a Gguf, name: &str) -> Option<&'a GgufTensor> {
    part.tensors().iter().find(|tensor| tensor.name == name)
}
