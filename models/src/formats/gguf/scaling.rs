//! How a file's rotary frequencies are stretched: settings, or a tensor of factors from which the settings follow.

use super::configure::Settings;
use super::{Gguf, GgufTensor};
use crate::config::{Architecture, RopeScaling, RopeSpec};
use crate::error::{Error, Result};
use crate::rope;
use serde_json::{Value, json};
use std::ops::RangeInclusive;

/// The tensor of rotary factors.
pub(crate) const FREQS: &str = "rope_freqs.weight";

/// What a configuration says of a file's scaling, as llama.cpp understands the file: where no type is told it is linear, and the
/// factor may have its old name, and `yarn_attn_factor`, `yarn_ext_factor` and `yarn_log_multiplier` are not those of these
/// architectures. The betas of yarn count as in the model that was converted. `factors` are those of the frequencies, and the part
/// that they are in.
///
/// # Errors
/// A setting that changes the rotation and cannot be kept, by its key.
pub(super) fn rope_scaling(
    settings: &Settings<'_>,
    factors: Option<(&Gguf, &GgufTensor)>,
    architecture: Architecture,
    theta: f64,
    head_dim: u32,
) -> Result<Option<Value>> {
    // Granite's files tell by it whether there is a rotation at all.
    const FINETUNED: &str = "rope.scaling.finetuned";
    if architecture == Architecture::Granite && settings.get(FINETUNED).and_then(Value::as_bool) == Some(false) {
        return Err(settings.wrong(FINETUNED, "true or absent: models without rotary embedding are not supported"));
    }
    // It scales cos and sin, which a configuration can say of YaRN alone.
    let attention = number(settings, "rope.scaling.attn_factor", 1e-3..=1e3)?.unwrap_or(1.0);
    let kind = settings.get("rope.scaling.type").map(Value::as_str);
    if attention != 1.0 && kind != Some(Some("yarn")) {
        return Err(settings.wrong("rope.scaling.attn_factor", "1 or absent where the scaling is not yarn"));
    }
    let is_yarn = match kind {
        None | Some(Some("linear")) => false,
        Some(Some("yarn")) => true,
        Some(Some("none")) => return from_factors(factors, theta, head_dim),
        Some(_) => {
            return Err(settings.wrong("rope.scaling.type", "none, linear or yarn; take another model"));
        }
    };
    let factor = match settings.get("rope.scaling.factor") {
        Some(_) => number(settings, "rope.scaling.factor", 1.0..=1e6)?,
        None => number(settings, "rope.scale_linear", 1.0..=1e6)?,
    };
    let only = |name: &str, allowed: &[f64], what: &str| match settings.get(name).map(Value::as_f64) {
        Some(found) if !found.is_some_and(|found| allowed.contains(&found)) => Err(settings.wrong(name, what)),
        _ => Ok(()),
    };
    only("rope.scaling.alpha", &[0.0, 1.0], "absent: this scaling is not supported")?;
    let factor = factor.unwrap_or(1.0);
    if !is_yarn {
        return match (factor != 1.0, factors) {
            (false, factors) => from_factors(factors, theta, head_dim),
            (true, None) => Ok(Some(json!({ "rope_type": "linear", "factor": factor }))),
            (true, Some((part, _))) => Err(both(part, "linear")),
        };
    }
    if let Some((part, _)) = factors {
        return Err(both(part, "yarn"));
    }
    let mut scaling = json!({
        "rope_type": "yarn", "factor": factor,
        "beta_fast": number(settings, "rope.scaling.yarn_beta_fast", 1e-3..=1e6)?,
        "beta_slow": number(settings, "rope.scaling.yarn_beta_slow", 1e-3..=1e6)?,
        "original_max_position_embeddings": settings.optional("rope.scaling.original_context_length")?,
        "attention_factor": (attention != 1.0).then(|| attention * (0.1 * factor.ln() + 1.0)),
    });
    if let Value::Object(map) = &mut scaling {
        map.retain(|_, value| !value.is_null());
    }
    Ok(Some(scaling))
}

/// A number of a range; `None` if it is absent, or 0, which counts as absent.
fn number(settings: &Settings<'_>, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
    let Some(value) = settings.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(0.0) => Ok(None),
        Some(number) if range.contains(&number) => Ok(Some(number)),
        _ => Err(settings.wrong(name, &format!("a number from {} to {}", range.start(), range.end()))),
    }
}

fn both(part: &Gguf, kind: &str) -> Error {
    let what = format!("goes with no other scaling, and the file's settings say {kind}; convert the model again");
    Error::tensor(part.path(), FREQS, what)
}

/// The scaling that a tensor of factors tells of.
fn from_factors(factors: Option<(&Gguf, &GgufTensor)>, theta: f64, head_dim: u32) -> Result<Option<Value>> {
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
}
