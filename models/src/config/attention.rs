//! What each layer sees: `sliding_window` with the rule of its family, or `layer_types`.

use super::Architecture;
use super::fields::Fields;
use crate::error::Result;
use ingot_ir::kv::Window;

/// A window for each of `n_layers`. The list of transformers 5 (`layer_types`) wins over the rule of the family.
pub(super) fn windows(fields: &Fields<'_>, architecture: Architecture, n_layers: u32) -> Result<Vec<Window>> {
    let slides: Vec<bool> = match fields.get("layer_types") {
        Some(_) => listed(fields, n_layers)?,
        None => {
            let first = first_sliding_layer(fields, architecture)?;
            (0..n_layers).map(|layer| layer >= first).collect()
        }
    };
    if !slides.contains(&true) {
        return Ok(vec![Window::FULL; n_layers as usize]);
    }
    if architecture == Architecture::Llama {
        return Err(fields.wrong("layer_types", "a list of `full_attention`, the only kind of the llama architecture"));
    }
    let window = Window { window: fields.u32("sliding_window", 1..=1 << 27)?, keep: 0 };
    Ok(slides.into_iter().map(|slides| if slides { window } else { Window::FULL }).collect())
}

/// The first layer with a window; those after it have one too.
fn first_sliding_layer(fields: &Fields<'_>, architecture: Architecture) -> Result<u32> {
    const NONE: u32 = u32::MAX;
    let first = match architecture {
        Architecture::Llama => NONE,
        Architecture::Mistral | Architecture::Mixtral => 0,
        // Published files carry a window that their models do not use.
        Architecture::Qwen2 | Architecture::Qwen3 if fields.opt_bool("use_sliding_window")? == Some(true) => {
            fields.u32_or("max_window_layers", 0..=4096, 28)?
        }
        Architecture::Qwen2 | Architecture::Qwen3 => NONE,
        Architecture::Qwen3Moe if fields.opt_bool("use_sliding_window")? == Some(true) => 0,
        Architecture::Qwen3Moe => NONE,
    };
    Ok(if fields.get("sliding_window").is_some() { first } else { NONE })
}

/// Whether each layer slides, from `layer_types`.
fn listed(fields: &Fields<'_>, n_layers: u32) -> Result<Vec<bool>> {
    let slides = |kind: &serde_json::Value| match kind.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    let list = fields.get("layer_types").and_then(|types| types.as_array());
    let list: Option<Vec<bool>> = list.and_then(|list| list.iter().map(slides).collect());
    list.filter(|list| list.len() == n_layers as usize).ok_or_else(|| {
        let allowed = format!("a list of `full_attention` and `sliding_attention`, one a layer, {n_layers} in all");
        fields.wrong("layer_types", allowed)
    })
}
