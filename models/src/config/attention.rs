//! What each layer sees: `sliding_window` with the rule of its family, or `layer_types`.

use super::Architecture;
use super::fields::Fields;
use crate::error::Result;
use ingot_ir::kv::Window;

/// A window for each of `n_layers`. The list of transformers 5 (`layer_types`) wins over the rule of the family.
pub(super) fn windows(fields: &Fields<'_>, architecture: Architecture, n_layers: u32) -> Result<Vec<Window>> {
    let slides: Vec<bool> = match fields.get("layer_types") {
        Some(_) => listed(fields, n_layers)?,
        None => by_family(fields, architecture, n_layers)?,
    };
    if !slides.contains(&true) {
        return Ok(vec![Window::FULL; n_layers as usize]);
    }
    if matches!(architecture, Architecture::Llama | Architecture::Gemma | Architecture::Granite) {
        let allowed = format!("a list of `full_attention`, the only kind of the {} architecture", architecture.name());
        return Err(fields.wrong("layer_types", allowed));
    }
    let window = Window { window: fields.u32("sliding_window", 1..=1 << 27)?, keep: 0 };
    Ok(slides.into_iter().map(|slides| if slides { window } else { Window::FULL }).collect())
}

/// Whether each layer slides, by the rule of its family.
fn by_family(fields: &Fields<'_>, architecture: Architecture, n_layers: u32) -> Result<Vec<bool>> {
    let all = |slides: &dyn Fn(u32) -> bool| (0..n_layers).map(slides).collect();
    if fields.get("sliding_window").is_none() {
        return Ok(all(&|_| false));
    }
    Ok(match architecture {
        Architecture::Llama | Architecture::Gemma | Architecture::Granite => all(&|_| false),
        Architecture::Mistral | Architecture::Mixtral => all(&|_| true),
        // Published files carry a window that their models do not use.
        Architecture::Qwen2 | Architecture::Qwen3 if fields.opt_bool("use_sliding_window")? == Some(true) => {
            let first = fields.u32_or("max_window_layers", 0..=4096, 28)?;
            all(&|layer| layer >= first)
        }
        Architecture::Qwen2 | Architecture::Qwen3 => all(&|_| false),
        Architecture::Qwen3Moe => {
            let slides = fields.opt_bool("use_sliding_window")? == Some(true);
            all(&|_| slides)
        }
        Architecture::Gemma2 => all(&|layer| layer % 2 == 0),
        Architecture::Gemma3 => {
            let pattern = match fields.opt_u32("sliding_window_pattern", 1..=4096)? {
                Some(pattern) => pattern,
                None => fields.u32_or("_sliding_window_pattern", 1..=4096, 6)?,
            };
            all(&|layer| (layer + 1) % pattern != 0)
        }
    })
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
