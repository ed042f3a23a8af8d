//! How a file's rotary frequencies are stretched: settings, or a tensor of factors from which the settings follow.

use super::{Gguf, GgufTensor};
use crate::config::{RopeScaling, RopeSpec};
use crate::error::{Error, Result};
use crate::rope;
use serde_json::{Value, json};

/// The tensor of rotary factors.
pub(crate) const FREQS: &str = "rope_freqs.weight";

/// `factors` are those of the frequencies, and the part that they are in.
pub(super) fn rope_scaling(
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
