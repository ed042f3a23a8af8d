//! A model's configuration as the settings of a GGUF file: the other direction of [`super::configure`].

use super::blocks::Stored;
use super::write::Setting;
use crate::config::{Architecture, ModelSpec, RopeScaling, RopeSpec};
use crate::rope;

/// GGUF's name of an architecture.
///
/// # Errors
/// What GGUF or llama.cpp has no word for.
pub(crate) fn architecture(spec: &ModelSpec) -> Result<&'static str, String> {
    let found = match spec.architecture {
        // llama.cpp has no other word for Mistral's.
        Architecture::Llama | Architecture::Mistral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
        other => {
            let name = other.name();
            return Err(format!(
                "is of architecture {name}, of which no GGUF files are written yet; write an MLX folder"
            ));
        }
    };
    if spec.windows.iter().any(|window| *window != ingot_ir::kv::Window::FULL) {
        return Err("sliding windows have no place in a GGUF file of this architecture".into());
    }
    Ok(found)
}

/// All settings but those of the tokenizer.
///
/// # Errors
/// What GGUF or llama.cpp has no word for.
pub(crate) fn settings(spec: &ModelSpec, name: &str, file_type: u32) -> Result<Vec<(String, Setting)>, String> {
    let architecture = architecture(spec)?;
    let mut all: Vec<(String, Setting)> = Vec::new();
    let mut put = |key: String, value: Setting| all.push((key, value));
    put("general.architecture".into(), Setting::Text(architecture.into()));
    put("general.type".into(), Setting::Text("model".into()));
    put("general.name".into(), Setting::Text(name.into()));
    put("general.file_type".into(), Setting::U32(file_type));
    put("general.quantization_version".into(), Setting::U32(2));
    let key = |name: &str| format!("{architecture}.{name}");
    let numbers = [
        ("block_count", spec.n_layers),
        ("context_length", spec.max_position_embeddings),
        ("embedding_length", spec.hidden_size),
        ("feed_forward_length", spec.intermediate_size),
        ("attention.head_count", spec.n_heads),
        ("attention.head_count_kv", spec.n_kv_heads),
        ("attention.key_length", spec.head_dim),
        ("attention.value_length", spec.head_dim),
        ("rope.dimension_count", spec.head_dim),
        ("vocab_size", spec.vocab_size),
    ];
    numbers.into_iter().for_each(|(name, number)| put(key(name), Setting::U32(number)));
    put(key("attention.layer_norm_rms_epsilon"), Setting::F32(spec.rms_norm_eps));
    put(key("rope.freq_base"), Setting::F32(spec.rope.theta as f32));
    let (kind, factor) = match spec.rope.scaling {
        RopeScaling::None | RopeScaling::Llama3 { .. } => return Ok(all),
        RopeScaling::Linear { factor } => ("linear", factor),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_positions, attention_factor, truncate } => {
            let usual = 0.1 * factor.ln() + 1.0;
            if (beta_fast, beta_slow, truncate) != (32.0, 1.0, true) || (attention_factor - usual).abs() > 1e-6 {
                return Err("yarn with settings of its own has no place in a GGUF file".into());
            }
            put(key("rope.scaling.original_context_length"), Setting::U32(original_max_positions));
            ("yarn", factor)
        }
    };
    put(key("rope.scaling.type"), Setting::Text(kind.into()));
    put(key("rope.scaling.factor"), Setting::F32(factor as f32));
    Ok(all)
}

/// What rotary frequencies are divided by, where that is a tensor of the file.
pub(crate) fn rope_factors(spec: &ModelSpec) -> Option<Vec<f32>> {
    if !matches!(spec.rope.scaling, RopeScaling::Llama3 { .. }) {
        return None;
    }
    let plain = rope::inv_freq(&RopeSpec { scaling: RopeScaling::None, ..spec.rope }, spec.head_dim);
    let scaled = rope::inv_freq(&spec.rope, spec.head_dim);
    Some(plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect())
}

/// llama.cpp's number for files whose matrices are of one type, mostly.
pub(crate) fn file_type(stored: Stored) -> u32 {
    match stored {
        Stored::F32 => 0,
        Stored::F16 => 1,
        Stored::Q4_0 => 2,
        Stored::Q4_1 => 3,
        Stored::Q8_0 => 7,
        Stored::Q5_0 => 8,
        Stored::Q5_1 => 9,
        Stored::Bf16 => 32,
        Stored::Mxfp4 => 38,
        // Guessed.
        _ => 1024,
    }
}
