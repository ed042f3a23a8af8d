//! Rotary frequencies, one for each pair of rotated elements, computed in the order and precision of transformers.

use crate::config::{RopeScaling, RopeSpec};

/// The angle in radians that each position adds to pair `i`, for `i < head_dim / 2`.
pub fn inv_freq(rope: &RopeSpec, head_dim: u32) -> Vec<f32> {
    let ramp = ramp(rope, head_dim);
    (0..head_dim / 2).map(|i| scaled(rope, base_freq(rope.theta, 2 * i, head_dim), ramp.at(i))).collect()
}

/// The factor on cos and sin.
pub fn scale(rope: &RopeSpec) -> f32 {
    match rope.scaling {
        RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => 1.0,
    }
}

/// From which pair to which a frequency goes from kept to divided.
struct Ramp {
    first: f32,
    last: f32,
}

impl Ramp {
    /// 0 at `first` and before, 1 at `last` and after.
    fn at(&self, pair: u32) -> f32 {
        ((pair as f32 - self.first) / (self.last - self.first)).clamp(0.0, 1.0)
    }
}

/// YaRN's ramp: the pairs that turn `beta_fast` and `beta_slow` times over the original context.
fn ramp(rope: &RopeSpec, head_dim: u32) -> Ramp {
    let RopeScaling::Yarn { beta_fast, beta_slow, original_max_positions, truncate, .. } = rope.scaling else {
        return Ramp { first: 0.0, last: 1.0 };
    };
    let dim = f64::from(head_dim);
    let pair_of = |turns: f64| {
        let wavelength = f64::from(original_max_positions) / (turns * 2.0 * std::f64::consts::PI);
        dim * wavelength.ln() / (2.0 * rope.theta.ln())
    };
    let (first, last) = (pair_of(beta_fast), pair_of(beta_slow));
    let (first, last) = if truncate { (first.floor(), last.ceil()) } else { (first, last) };
    let (first, last) = (first.max(0.0), last.min(dim - 1.0));
    // A ramp of no length is a step.
    Ramp { first: first as f32, last: if first == last { last + 0.001 } else { last } as f32 }
}

/// `1 / theta^(at / dim)`. The exponent and the power are rounded to f32 as in transformers; f64 inside makes the power
/// correctly rounded, as torch's is to within a unit in the last place.
fn base_freq(theta: f64, at: u32, dim: u32) -> f32 {
    let exponent = at as f32 / dim as f32;
    1.0 / (theta.powf(f64::from(exponent)) as f32)
}

/// `ramp` is where the pair stands between kept (0) and divided (1), for YaRN.
fn scaled(rope: &RopeSpec, freq: f32, ramp: f32) -> f32 {
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
        RopeScaling::Yarn { factor, .. } => freq / factor as f32 * ramp + freq * (1.0 - ramp),
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

    #[test]
    fn yarn_goes_from_kept_to_divided_between_the_two_betas() {
        let yarn = |truncate, original_max_positions| RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_positions,
            attention_factor: 1.0 + 0.1 * 4f64.ln(),
            truncate,
        };
        let plain = inv_freq(&spec(10_000.0, RopeScaling::None), 128);
        let rope = spec(10_000.0, yarn(true, 4096));
        let freqs = inv_freq(&rope, 128);
        // 64 * ln(4096 / 64 pi) / ln(10000) = 20.9, 64 * ln(4096 / 2 pi) / ln(10000) = 45.03.
        for (pair, (found, plain)) in freqs.iter().zip(&plain).enumerate() {
            let expected = match pair {
                0..=20 => *plain,
                46.. => plain / 4.0,
                _ => plain * (1.0 - 0.75 * (pair as f32 - 20.0) / 26.0),
            };
            assert!((found / expected - 1.0).abs() < 1e-5, "pair {pair}: {found} for {expected}");
        }
        assert!((scale(&rope) - 1.138_629_4).abs() < 1e-6);
        let exact = inv_freq(&spec(10_000.0, yarn(false, 4096)), 128);
        assert!(exact[20] == plain[20] && exact[21] > freqs[21] && exact[46] == plain[46] / 4.0);
    }
}
