//! A model's configuration as the settings of a GGUF file: the other direction of [`super::configure`].

use super::blocks::Stored;
use super::configure::{KNOWN, query_pre_attn_scalar, slides, usual_pattern};
use super::write::Setting;
use crate::config::{Architecture, ModelSpec, RopeScaling, RopeSpec};
use crate::rope;

/// GGUF's name of an architecture.
///
/// # Errors
/// What GGUF or llama.cpp has no word for.
pub(crate) fn architecture(spec: &ModelSpec) -> Result<&'static str, String> {
    let known = match spec.architecture {
        // llama.cpp has no other word for theirs.
        Architecture::Mistral | Architecture::Mixtral => Architecture::Llama,
        other => other,
    };
    let found = KNOWN.iter().find(|(_, own)| *own == known);
    let name = spec.architecture.name();
    found.map(|(name, _)| *name).ok_or_else(|| {
        format!("is of architecture {name}, of which no GGUF files are written yet; write an MLX folder")
    })
}

/// A setting: its key after the architecture's name.
type Own = (&'static str, Setting);

/// All settings but those of the tokenizer.
///
/// # Errors
/// What GGUF or llama.cpp has no word for.
pub(crate) fn settings(spec: &ModelSpec, name: &str, file_type: u32) -> Result<Vec<(String, Setting)>, String> {
    let architecture = architecture(spec)?;
    let general: [(&str, Setting); 5] = [
        ("architecture", Setting::Text(architecture.into())),
        ("type", Setting::Text("model".into())),
        ("name", Setting::Text(name.into())),
        ("file_type", Setting::U32(file_type)),
        ("quantization_version", Setting::U32(2)),
    ];
    let numbers: [(&'static str, u32); 10] = [
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
    let mut own: Vec<Own> = numbers.into_iter().map(|(name, number)| (name, Setting::U32(number))).collect();
    own.push(("attention.layer_norm_rms_epsilon", Setting::F32(spec.rms_norm_eps)));
    own.extend(rotation(spec)?);
    own.extend(experts(spec)?);
    own.extend(scales(spec)?);
    own.extend(windows(spec)?);
    let general = general.into_iter().map(|(name, setting)| (format!("general.{name}"), setting));
    Ok(general.chain(own.into_iter().map(|(name, setting)| (format!("{architecture}.{name}"), setting))).collect())
}

fn rotation(spec: &ModelSpec) -> Result<Vec<Own>, String> {
    let mut all = vec![("rope.freq_base", Setting::F32(spec.rope.theta as f32))];
    if spec.windows.iter().any(|window| window.window > 0) {
        let is_own = spec.architecture == Architecture::Gemma3;
        if if is_own { spec.local_rope.scaling != RopeScaling::None } else { spec.local_rope != spec.rope } {
            return Err("a stretched rotation of layers with a window has no place in a GGUF file".into());
        }
        if is_own {
            all.push(("rope.freq_base_swa", Setting::F32(spec.local_rope.theta as f32)));
        }
    }
    let (kind, factor) = match spec.rope.scaling {
        RopeScaling::None | RopeScaling::Llama3 { .. } => return Ok(all),
        RopeScaling::Linear { factor } => ("linear", factor),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_positions, attention_factor, truncate } => {
            let usual = 0.1 * factor.ln() + 1.0;
            if (beta_fast, beta_slow, truncate) != (32.0, 1.0, true) {
                return Err("yarn with settings of its own has no place in a GGUF file".into());
            }
            // It is what the usual factor is multiplied with.
            if (attention_factor - usual).abs() > 1e-6 {
                all.push(("rope.scaling.attn_factor", Setting::F32((attention_factor / usual) as f32)));
            }
            all.push(("rope.scaling.original_context_length", Setting::U32(original_max_positions)));
            ("yarn", factor)
        }
    };
    all.push(("rope.scaling.type", Setting::Text(kind.into())));
    all.push(("rope.scaling.factor", Setting::F32(factor as f32)));
    Ok(all)
}

fn experts(spec: &ModelSpec) -> Result<Vec<Own>, String> {
    let Some(experts) = &spec.experts else { return Ok(Vec::new()) };
    if experts.layers.contains(&false) {
        return Err("a mixture of experts with layers that are none has no place in a GGUF file".into());
    }
    if !experts.renormalize {
        return Err("llama.cpp divides the shares of experts by their sum, which this model does not".into());
    }
    let mut all =
        vec![("expert_count", Setting::U32(experts.n_experts)), ("expert_used_count", Setting::U32(experts.n_active))];
    if spec.architecture != Architecture::Mixtral {
        all.push(("expert_feed_forward_length", Setting::U32(experts.intermediate_size)));
    }
    Ok(all)
}

fn scales(spec: &ModelSpec) -> Result<Vec<Own>, String> {
    let scales = &spec.scales;
    let (attention_cap, logit_cap) =
        (("attn_logit_softcapping", scales.attention_cap), ("final_logit_softcapping", scales.logit_cap));
    let all = match spec.architecture {
        Architecture::Gemma2 if scales.attention_cap > 0.0 && scales.logit_cap > 0.0 => vec![attention_cap, logit_cap],
        Architecture::Gemma2 => return Err("llama.cpp bounds scores and logits, which this model does not".into()),
        _ if scales.attention_cap > 0.0 => return Err("llama.cpp does not bound scores, which this model does".into()),
        Architecture::Gemma3 if scales.logit_cap > 0.0 => vec![logit_cap],
        Architecture::Granite => vec![
            ("attention.scale", scales.attention),
            ("embedding_scale", scales.embedding),
            ("residual_scale", scales.residual),
            ("logit_scale", scales.logits.recip()),
        ],
        _ => Vec::new(),
    };
    Ok(all.into_iter().map(|(name, number)| (name, Setting::F32(number))).collect())
}

/// What scores are multiplied with beyond what llama.cpp knows by itself or files tell; it must become a part of the queries.
pub(crate) fn query_factor(spec: &ModelSpec) -> f32 {
    let (n_layers, width) = (u64::from(spec.n_layers), u64::from(spec.hidden_size / spec.n_heads));
    let assumed = query_pre_attn_scalar(spec.architecture, n_layers, width, spec.head_dim.into());
    let factor = assumed.map_or(1.0, |assumed| f64::from(spec.scales.attention) * (assumed as f64).sqrt());
    if (factor - 1.0).abs() < 1e-6 { 1.0 } else { factor as f32 }
}

/// llama.cpp heeds windows of Gemma's alone and has none for the others, nor does its converter tell of them.
fn windows(spec: &ModelSpec) -> Result<Vec<Own>, String> {
    let widths: Vec<u32> = spec.windows.iter().map(|window| window.window).collect();
    let Some(width) = widths.iter().copied().find(|width| *width > 0) else {
        // What is silent is taken to have windows in every second layer, so that none has.
        let none = ("attention.sliding_window_pattern", Setting::U32(1));
        return Ok(if spec.architecture == Architecture::Gemma2 { vec![none] } else { Vec::new() });
    };
    if spec.windows.iter().any(|window| window.keep > 0 || ![0, width].contains(&window.window)) {
        return Err("windows of several kinds have no place in a GGUF file".into());
    }
    let mut all = vec![("attention.sliding_window", Setting::U32(width))];
    let is = |pattern: u64| (0..).zip(&widths).all(|(layer, width)| slides(layer, pattern) == (*width > 0));
    if !usual_pattern(spec.architecture).is_some_and(is) {
        const PATTERN: &str = "attention.sliding_window_pattern";
        // As a number where it is one, which older readers want.
        all.push(match (0..=u64::from(spec.n_layers)).find(|pattern| is(*pattern)) {
            Some(pattern) => (PATTERN, Setting::U32(pattern as u32)),
            None => (PATTERN, Setting::Bools(widths.iter().map(|width| *width > 0).collect())),
        });
    }
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
