//! How the next token is chosen. Greedy choices are made on the device; what follows here is for the rest.
//!
//! Order and meaning are mlx-lm's: log-probabilities, then top-p, then top-k, on untempered numbers; at last a draw
//! from `softmax(logprobs / temperature)`.

mod random;

pub use random::Random;

use crate::RuntimeError;

/// How a request's tokens are chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampling {
    /// 0 takes the most probable token and ignores the filters.
    pub temperature: f32,
    /// Keeps the most probable tokens until their mass exceeds this; off outside (0, 1).
    pub top_p: f32,
    /// Keeps this many of the most probable tokens; 0 is off.
    pub top_k: u32,
    /// Seed of the request's random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0 }
    }
}

impl Sampling {
    /// Whether the device's greedy choice is the answer.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks the ranges.
    pub fn check(&self, n_vocab: u32) -> Result<(), RuntimeError> {
        let bad = |name, value: String, allowed| Err(RuntimeError::BadSampling { name, value, allowed });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return bad("temperature", self.temperature.to_string(), "0 or a positive number");
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return bad("top-p", self.top_p.to_string(), "between 0 and 1");
        }
        if self.top_k >= n_vocab {
            return bad("top-k", self.top_k.to_string(), "0 (off) or less than the vocabulary");
        }
        Ok(())
    }
}

/// Memory that sampling reuses, so that a decode step allocates nothing once it has grown.
#[derive(Debug, Default)]
pub struct Scratch {
    logprobs: Vec<f32>,
    order: Vec<u32>,
}

/// Draws a token from logits. `position` and the seed determine the random number, so a result does not depend on the batch.
pub fn sample(logits: &[f32], sampling: &Sampling, position: u32, scratch: &mut Scratch) -> u32 {
    if sampling.is_greedy() {
        return argmax(logits);
    }
    let Scratch { logprobs, order } = scratch;
    log_softmax(logits, logprobs);
    let filtered = (sampling.top_p > 0.0 && sampling.top_p < 1.0) || sampling.top_k > 0;
    if filtered {
        order.clear();
        order.extend(0..logprobs.len() as u32);
        let by_logprob = |a: &u32, b: &u32| logprobs[*b as usize].total_cmp(&logprobs[*a as usize]);
        order.sort_unstable_by(by_logprob);
        let mut keep = order.len();
        if sampling.top_p > 0.0 && sampling.top_p < 1.0 {
            keep = keep.min(top_p_count(order, logprobs, sampling.top_p));
        }
        if sampling.top_k > 0 {
            keep = keep.min(sampling.top_k as usize);
        }
        for dropped in &order[keep..] {
            logprobs[*dropped as usize] = f32::NEG_INFINITY;
        }
    }
    draw(logprobs, sampling, position)
}

/// Greatest logit, the lowest id on a tie.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (ix, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = ix;
        }
    }
    best as u32
}

/// `logits - logsumexp(logits)` into `out`.
pub fn log_softmax(logits: &[f32], out: &mut Vec<f32>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let log_sum = max + sum.ln() as f32;
    out.clear();
    out.extend(logits.iter().map(|logit| logit - log_sum));
}

/// How many of the sorted tokens stay: a token stays while the mass strictly above it is below `p`; ties with the last stay.
fn top_p_count(order: &[u32], logprobs: &[f32], p: f32) -> usize {
    let logprob = |rank: usize| logprobs[order[rank] as usize];
    let mut above = 0.0f64;
    let mut keep = 0;
    while keep < order.len() && (above < f64::from(p) || (keep > 0 && logprob(keep) == logprob(keep - 1))) {
        above += f64::from(logprob(keep)).exp();
        keep += 1;
    }
    keep.max(1)
}

/// One draw from `softmax(logprobs / temperature)`.
fn draw(logprobs: &[f32], sampling: &Sampling, position: u32) -> u32 {
    let inverse = 1.0 / f64::from(sampling.temperature);
    let max = logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logprob: f32| (f64::from(logprob - max) * inverse).exp();
    let total: f64 = logprobs.iter().map(|logprob| weight(*logprob)).sum();
    let mut rest = Random::at(sampling.seed, position).unit() * total;
    let mut last = argmax(logprobs);
    for (ix, logprob) in logprobs.iter().enumerate() {
        let weight = weight(*logprob);
        if weight > 0.0 {
            last = ix as u32;
            rest -= weight;
            if rest < 0.0 {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(logits: &[f32], sampling: Sampling, n: u32) -> Vec<u32> {
        let mut counts = vec![0; logits.len()];
        let mut scratch = Scratch::default();
        for position in 0..n {
            counts[sample(logits, &sampling, position, &mut scratch) as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_tempered_distribution() {
        let logits = [0.0, 1.0, 2.0];
        for temperature in [0.5f32, 1.0, 2.0] {
            let found = counts(&logits, Sampling { temperature, seed: 7, ..Sampling::default() }, 20_000);
            let weights: Vec<f32> = logits.iter().map(|l| (l / temperature).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (count, weight) in found.iter().zip(&weights) {
                let share = *count as f32 / 20_000.0;
                assert!((share - weight / total).abs() < 0.015, "{temperature}: {share} for {}", weight / total);
            }
        }
    }

    #[test]
    fn filters_keep_what_mlx_lm_keeps() {
        // Probabilities 0.5, 0.25, 0.125, 0.125: the mass above the second is 0.5, above the third 0.75.
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
        let kept = |top_p, top_k| {
            let sampling = Sampling { temperature: 1.0, top_p, top_k, seed: 3 };
            counts(&logits, sampling, 2_000).iter().map(|count| *count > 0).collect::<Vec<_>>()
        };
        assert_eq!(kept(0.45, 0), [true, false, false, false]);
        assert_eq!(kept(0.6, 0), [true, true, false, false]);
        assert_eq!(kept(0.8, 0), [true, true, true, true], "a tie with the last kept stays");
        assert_eq!(kept(1.0, 2), [true, true, false, false]);
        assert_eq!(kept(0.0, 0), [true, true, true, true], "0 is off");
    }

    #[test]
    fn greedy_ignores_filters_and_takes_the_lowest_of_a_tie() {
        let mut scratch = Scratch::default();
        let sampling = Sampling { top_k: 1, top_p: 0.1, ..Sampling::default() };
        assert_eq!(sample(&[1.0, 3.0, 3.0], &sampling, 0, &mut scratch), 1);
    }

    #[test]
    fn a_seed_and_a_position_fix_the_draw() {
        let logits = [0.0; 64];
        let sampling = Sampling { temperature: 1.0, seed: 11, ..Sampling::default() };
        let mut scratch = Scratch::default();
        let a: Vec<_> = (0..32).map(|p| sample(&logits, &sampling, p, &mut scratch)).collect();
        let b: Vec<_> = (0..32).rev().map(|p| sample(&logits, &sampling, p, &mut scratch)).collect();
        assert!(a.iter().eq(b.iter().rev()));
        let other = Sampling { seed: 12, ..sampling };
        assert!((0..32).map(|p| sample(&logits, &other, p, &mut scratch)).ne(a));
    }
}
