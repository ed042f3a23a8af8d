//! What is wrong with a file's model in the file's own words: models are read as a Hugging Face folder's, whose names of tensors and
//! settings a file does not have.

use super::Gguf;
use super::names::gguf_name;
use crate::blocks::stack_path;
use crate::config::Architecture;
use crate::error::Error;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Fields of a configuration and the keys that they are made of, those of the architecture without its name.
const KEYS: [(&str, &str); 30] = [
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("rope_local_base_freq", "rope.freq_base_swa"),
    ("rope_scaling.factor", "rope.scaling.factor"),
    ("rope_scaling.beta_fast", "rope.scaling.yarn_beta_fast"),
    ("rope_scaling.beta_slow", "rope.scaling.yarn_beta_slow"),
    ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ("rope_scaling.attention_factor", "rope.scaling.attn_factor"),
    ("rope_scaling.original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("sliding_window", "attention.sliding_window"),
    ("sliding_window_pattern", "attention.sliding_window_pattern"),
    ("layer_types", "attention.sliding_window_pattern"),
    ("num_experts", "expert_count"),
    ("num_local_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("norm_topk_prob", "expert_weights_norm"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("embedding_multiplier", "embedding_scale"),
    ("attention_multiplier", "attention.scale"),
    ("residual_multiplier", "residual_scale"),
    ("logits_scaling", "logit_scale"),
];

/// The same, of keys that every architecture has.
const TOKENIZER_KEYS: [(&str, &str); 3] = [
    ("vocab_size", "tokenizer.ggml.tokens"),
    ("bos_token_id", "tokenizer.ggml.bos_token_id"),
    ("eos_token_id", "tokenizer.ggml.eos_token_id"),
];

/// What a file calls things: kept when its settings are forgotten.
#[derive(Debug)]
pub(crate) struct Words {
    /// Its name of the architecture, which keys begin with.
    name: String,
    architecture: Architecture,
}

impl Words {
    /// Those of a file, which is the first part of a split one.
    pub(super) fn of(file: &Gguf, architecture: Architecture) -> Self {
        let name = file.metadata().get("general.architecture").and_then(Value::as_str).unwrap_or("");
        Self { name: name.to_owned(), architecture }
    }

    /// An error of the model in the file's words. `place` is the file as it was named.
    pub(crate) fn tell(&self, error: Error, place: &Path) -> Error {
        let tensor = |name: String| gguf_name(&name, self.architecture).unwrap_or(name);
        // Small files are named as if they lay in the file.
        let outside = |path: PathBuf| if path.starts_with(place) { place.to_path_buf() } else { path };
        match error {
            Error::Field { path, field, found, allowed } => {
                Error::Field { path: outside(path), field: self.keys(&field), found, allowed: self.keys(&allowed) }
            }
            Error::Tensor { path, tensor: name, what } => {
                let doubt = "does config.json belong to these weights?";
                let what = what.replace(doubt, "it belongs to another model, or is damaged");
                Error::Tensor { path, tensor: tensor(name), what }
            }
            Error::MissingTensor { path, tensor: name, .. } => {
                // Where not even the first expert is, they are looked for in a stack.
                let stack =
                    name.strip_suffix(".weight").filter(|path| path.contains(".experts.0.")).and_then(stack_path);
                let name = stack.map_or(name, |path| format!("{path}.weight"));
                let hint = "; the file is not whole, or not of the architecture that it names: fetch it again, or convert the model again";
                Error::MissingTensor { path, tensor: tensor(name), hint: hint.into() }
            }
            Error::Malformed { path, what } => Error::Malformed { path: outside(path), what },
            Error::Unsupported { path, what } => Error::Unsupported { path: outside(path), what: self.keys(&what) },
            other => other,
        }
    }

    /// A text with keys in place of fields.
    fn keys(&self, text: &str) -> String {
        let is_end = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
        let of_word = |word: &str| {
            let found = |table: &[(&str, &'static str)]| table.iter().find(|row| row.0 == word).map(|row| row.1);
            match (found(&KEYS), found(&TOKENIZER_KEYS)) {
                (Some(key), _) => format!("{}.{key}", self.name),
                (None, Some(key)) => key.to_owned(),
                (None, None) => word.to_owned(),
            }
        };
        let piece = |piece: &str| match piece.strip_suffix(is_end) {
            Some(word) => of_word(word) + &piece[word.len()..],
            None => of_word(piece),
        };
        text.split_inclusive(is_end).map(piece).collect()
    }
}
