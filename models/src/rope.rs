//! Rotary frequencies, one for each pair of rotated elements, computed in the order and precision of transformers.

use crate::config::{RopeScaling, RopeSpec};

/// The angle in radians that each position adds to pair `i`, for `i < head_dim / 2`.
pub fn inv_freq(rope: &RopeSpec, head_dim: u32) -> Vec<f32> {
    (0..head_dim / 2).map(|i| scaled(rope, base_freq(rope.theta, 2 * i, head_dim))).collect()
}

/// `1 / theta^(at / dim)`. The exponent and the power are rounded to f32 as in transformers; f64 inside makes the power
/// correctly rounded, as torch's is to within a unit in the last place.
fn base_freq(theta: f64, at: u32, dim: u32) -> f32 {
    let exponent = at as f32 / dim as f32;
    1.0 / (theta.powf(f64::from(exponent)) as f32)
}

fn scaled(rope: &RopeSpec, freq: f32) -> f32 {
    match rope.scaling {
        RopeScaling::None => freq,
        RopeScaling::Linear { factor } => freq / factor as f32,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
            let context = original_max_positions as f32;
            let wavelength = (2.0 * std::f64::consts::PI) as f32 / freq;
            if wavelength < context / high {
                freq
            } else if wavelength > context / low {
                freq / factor
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                (1.0 - smooth) * freq / factor + smooth * freq
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(theta: f64, scaling: RopeScaling) -> RopeSpec {
        RopeSpec { theta, scaling }
    }

    #[test]
    fn plain_and_linear() {
        let freqs = inv_freq(&spec(10_000.0, RopeScaling::None), 8);
        for (found, expected) in freqs.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} is not {expected}");
        }
        let linear = inv_freq(&spec(10_000.0, RopeScaling::Linear { factor: 4.0 }), 8);
        assert_eq!(linear, freqs.iter().map(|f| f / 4.0).collect::<Vec<_>>());
    }

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        let plain = inv_freq(&spec(500_000.0, RopeScaling::None), 128);
        let freqs = inv_freq(&spec(500_000.0, scaling), 128);
        assert_eq!(freqs[0], plain[0]);
        assert_eq!(freqs[63], plain[63] / 8.0);
        let between = freqs.iter().zip(&plain).filter(|(f, p)| **f < **p && **f > **p / 8.0).count();
        assert!(between > 0, "the middle band is empty");
        assert!(freqs.is_sorted_by(|a, b| a >= b));
    }
}
