//! Rotary position embedding: `rope_theta` with `rope_scaling`, or `rope_parameters`.

use super::Architecture;
use super::fields::Fields;
use crate::error::Result;

/// How rotary frequencies are stretched for contexts longer than the training's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Long waves divided by `factor`, short ones kept, a blend between.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Waves longer than `original_max_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Waves shorter than `original_max_positions / high_freq_factor` are short; greater than `low_freq_factor`.
        high_freq_factor: f64,
        /// Positions that the model was first trained on.
        original_max_positions: u32,
    },
    /// YaRN (Peng, Quesnelle, Fan and Shippole 2023): pairs that turn often keep their frequency, those that turn
    /// seldom are divided by `factor`, with a ramp between; cos and sin carry `attention_factor`.
    Yarn {
        /// At least 1.
        factor: f64,
        /// Pairs with more turns than this over the original context are kept.
        beta_fast: f64,
        /// Pairs with fewer turns than this are divided by `factor`; less than `beta_fast`.
        beta_slow: f64,
        /// Positions that the model was first trained on.
        original_max_positions: u32,
        /// Factor on cos and sin.
        attention_factor: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
    },
}

/// Rotary position embedding.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// Stretching.
    pub scaling: RopeScaling,
}

/// The greatest base.
const MAX_THETA: f64 = 1e12;

/// The rotary embeddings of a configuration in either style: that of layers that see all, and that of layers with a window.
///
/// # Errors
/// Names the field that is wrong.
pub(super) fn ropes(
    fields: &Fields<'_>,
    architecture: Architecture,
    max_positions: u32,
) -> Result<(RopeSpec, RopeSpec)> {
    let parameters = fields.child("rope_parameters")?;
    let of_kind = |kind: &str| parameters.as_ref().map_or(Ok(None), |parameters| parameters.child(kind));
    if let (Some(full), Some(local)) = (of_kind("full_attention")?, of_kind("sliding_attention")?) {
        return Ok((rope(fields, Some(full), max_positions)?, rope(fields, Some(local), max_positions)?));
    }
    let full = rope(fields, parameters, max_positions)?;
    // Its base alone is told, and it is not stretched.
    let local = match fields.get("rope_local_base_freq") {
        Some(_) => RopeSpec { theta: fields.positive("rope_local_base_freq", MAX_THETA)?, scaling: RopeScaling::None },
        // The default of transformers and mlx-lm.
        None if architecture == Architecture::Gemma3 => RopeSpec { theta: 10_000.0, scaling: RopeScaling::None },
        None => full,
    };
    Ok((full, local))
}

/// One of them; `parameters` are those of transformers 5.
fn rope(fields: &Fields<'_>, parameters: Option<Fields<'_>>, max_positions: u32) -> Result<RopeSpec> {
    let scaling = match &parameters {
        Some(parameters) => Some(parameters.clone()),
        None => fields.child("rope_scaling")?,
    };
    let theta = match &parameters {
        Some(parameters) if parameters.get("rope_theta").is_some() => parameters.positive("rope_theta", MAX_THETA)?,
        _ if fields.get("rope_theta").is_some() => fields.positive("rope_theta", MAX_THETA)?,
        _ => 10_000.0,
    };
    for place in [Some(fields), scaling.as_ref()].into_iter().flatten() {
        if place.get("partial_rotary_factor").is_some_and(|factor| factor.as_f64() != Some(1.0)) {
            return Err(place.wrong("partial_rotary_factor", "1 or absent: whole heads are rotated"));
        }
    }
    let scaling = match scaling {
        None => RopeScaling::None,
        Some(scaling) => rope_scaling(fields, &scaling, theta, max_positions)?,
    };
    Ok(RopeSpec { theta, scaling })
}

fn rope_scaling(fields: &Fields<'_>, scaling: &Fields<'_>, theta: f64, max_positions: u32) -> Result<RopeScaling> {
    const ALLOWED: &str = "`default`, `linear`, `llama3` or `yarn`";
    let key = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
    match scaling.opt_str(key)? {
        Some("default") => Ok(RopeScaling::None),
        None if scaling.is_empty() || scaling.has_only("rope_theta") => Ok(RopeScaling::None),
        None => Err(scaling.wrong("rope_type", ALLOWED)),
        Some("linear") => Ok(RopeScaling::Linear { factor: scaling.at_least_one("factor")? }),
        Some("llama3") => {
            let low_freq_factor = scaling.positive("low_freq_factor", 1e6)?;
            let high_freq_factor = scaling.positive("high_freq_factor", 1e6)?;
            if high_freq_factor <= low_freq_factor {
                return Err(
                    scaling.wrong("high_freq_factor", format!("greater than low_freq_factor = {low_freq_factor}"))
                );
            }
            let positions = 1..=1 << 27;
            let original = scaling.opt_u32("original_max_position_embeddings", positions.clone())?;
            Ok(RopeScaling::Llama3 {
                factor: scaling.at_least_one("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_positions: match original {
                    Some(original) => original,
                    None => fields.u32("original_max_position_embeddings", positions)?,
                },
            })
        }
        Some("yarn") if theta <= 1.0 => Err(fields.wrong("rope_theta", "greater than 1 for yarn")),
        Some("yarn") => yarn(scaling, max_positions),
        Some(_) => Err(scaling.wrong(key, ALLOWED)),
    }
}

/// YaRN with transformers' defaults: the model's own context as the original one, and an attention factor from `factor`
/// or, in the manner of DeepSeek, from `mscale` and `mscale_all_dim`.
fn yarn(scaling: &Fields<'_>, max_positions: u32) -> Result<RopeScaling> {
    let optional = |name: &str, max| scaling.get(name).map(|_| scaling.positive(name, max)).transpose();
    let factor = scaling.at_least_one("factor")?;
    let (beta_fast, beta_slow) =
        (optional("beta_fast", 1e6)?.unwrap_or(32.0), optional("beta_slow", 1e6)?.unwrap_or(1.0));
    if beta_fast <= beta_slow {
        return Err(scaling.wrong("beta_fast", format!("greater than beta_slow = {beta_slow} (32 if it is absent)")));
    }
    let magnitude = |mscale: f64| 0.1 * mscale * factor.ln() + 1.0;
    let scales = optional("mscale", 1e3)?.zip(optional("mscale_all_dim", 1e3)?);
    let attention_factor = match optional("attention_factor", 1e3)? {
        Some(given) => given,
        None => scales.map_or(magnitude(1.0), |(mscale, all_dim)| magnitude(mscale) / magnitude(all_dim)),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast,
        beta_slow,
        original_max_positions: scaling.u32_or("original_max_position_embeddings", 1..=1 << 27, max_positions)?,
        attention_factor,
        truncate: scaling.opt_bool("truncate")?.unwrap_or(true),
    })
}
