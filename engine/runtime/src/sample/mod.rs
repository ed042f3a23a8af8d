//! How the next token is chosen. A GPU does it itself, told by [`choice`]; what follows here is for the processor, and for what
//! a GPU has no room for.
//!
//! Order and meaning are mlx-lm's. The logits pass the [`processors`]: bias, then penalties of what the sequence holds; then the
//! program's own change ([`Adjust`]). A [`Constraint`] drops the tokens that an answer's form forbids; it comes last, so that
//! nothing before it breaks a form. The log-probabilities of the result are those that are told. At temperature 0 the greatest
//! wins; else the [`filters`] drop tokens (top-p, min-p, XTC, top-k, all untempered), and the token is drawn from
//! `softmax(logits / temperature)`: each id has noise that seed, position and id determine ([`gumbel`]), and the greatest sum
//! wins.

mod adjust;
mod constraint;
mod device;
mod filters;
mod processors;
mod random;
mod sampling;

pub use adjust::{Adjust, AdjustLogits};
pub use constraint::{Constraint, Grammar};
pub use device::{Chooser, Lists, Room, choice, lists, remembers, ring};
pub use filters::filter;
pub use processors::process;
pub use random::{Random, gumbel};
pub use sampling::{Penalty, Sampling};

/// Memory that sampling reuses, so that a decode step allocates nothing once it has grown.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    /// Log-probabilities from which the newest token was chosen, before the filters.
    logprobs: Vec<f32>,
    filtered: Vec<f32>,
    order: Vec<u32>,
}

/// What a sequence holds when its next token is chosen.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// Prompt and answer so far.
    pub tokens: &'a [u32],
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Ids that would end the answer.
    pub stop_ids: &'a [u32],
}

/// Chooses a token from logits. The seed and the sequence's length determine the random numbers, so a result does not
/// depend on the batch.
pub fn sample(logits: &[f32], sampling: &Sampling, history: &History<'_>, scratch: &mut Scratch) -> u32 {
    adjusted(logits, sampling, history, scratch);
    chosen(sampling, history, scratch)
}

/// [`sample`] of the tokens that fit a form.
///
/// # Errors
/// If no token of the vocabulary fits.
pub fn sample_fitting(
    logits: &[f32],
    sampling: &Sampling,
    history: &History<'_>,
    form: &Constraint,
    scratch: &mut Scratch,
) -> Result<u32, String> {
    adjusted(logits, sampling, history, scratch);
    form.mask(&mut scratch.logits, logits)?;
    Ok(chosen(sampling, history, scratch))
}

/// Logits after bias, penalties and the program's own change, into the scratch memory.
fn adjusted(logits: &[f32], sampling: &Sampling, history: &History<'_>, scratch: &mut Scratch) {
    scratch.logits.clear();
    scratch.logits.extend_from_slice(logits);
    process(&mut scratch.logits, sampling, history);
    if let Some(adjust) = &sampling.adjust {
        adjust.run(history.tokens, &mut scratch.logits);
    }
}

/// The token that is chosen from the logits in the scratch memory.
fn chosen(sampling: &Sampling, history: &History<'_>, scratch: &mut Scratch) -> u32 {
    let Scratch { logits, logprobs, filtered, order } = scratch;
    log_softmax(logits, logprobs);
    if sampling.temperature == 0.0 {
        return argmax(logprobs);
    }
    let random = Random::at(sampling.seed, history.tokens.len() as u32);
    filtered.clone_from(logprobs);
    filter(filtered, sampling, device::excludes(sampling, &random), order);
    random::draw(logits, 1.0 / sampling.temperature, random.noise, |id| filtered[id] > f32::NEG_INFINITY)
}

/// The log-probability of the token that [`sample`] has just chosen, and the best ids with theirs, in falling order.
pub fn logprobs(chosen: u32, n_best: usize, scratch: &mut Scratch) -> (f32, Vec<(u32, f32)>) {
    let Scratch { logprobs, order, .. } = scratch;
    let mut ranking = filters::Ranking::new(logprobs, order);
    let best = (0..n_best.min(logprobs.len())).map(|rank| ranking.at(rank)).collect();
    (logprobs[chosen as usize], best)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u32) -> Vec<u32> {
        vec![0; position as usize]
    }

    fn choose(logits: &[f32], sampling: &Sampling, position: u32, scratch: &mut Scratch) -> u32 {
        let history = History { tokens: &at(position), n_prompt: position as usize, stop_ids: &[] };
        sample(logits, sampling, &history, scratch)
    }

    fn counts(logits: &[f32], sampling: &Sampling, n: u32) -> Vec<u32> {
        let mut counts = vec![0; logits.len()];
        let mut scratch = Scratch::default();
        for position in 0..n {
            counts[choose(logits, sampling, position, &mut scratch) as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_tempered_distribution() {
        let logits = [0.0, 1.0, 2.0];
        for temperature in [0.5f32, 1.0, 2.0] {
            let found = counts(&logits, &Sampling { temperature, seed: 7, ..Sampling::default() }, 20_000);
            let weights: Vec<f32> = logits.iter().map(|l| (l / temperature).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (count, weight) in found.iter().zip(&weights) {
                let share = *count as f32 / 20_000.0;
                assert!((share - weight / total).abs() < 0.015, "{temperature}: {share} for {}", weight / total);
            }
        }
    }

    #[test]
    fn xtc_is_applied_as_often_as_asked() {
        // The first token is excluded where XTC is applied; where not, it is all but certain.
        let logits = [0.0, -9.0, -30.0];
        let sampling =
            Sampling { temperature: 0.1, xtc_probability: 0.25, xtc_threshold: 0.0001, seed: 3, ..Sampling::default() };
        let found = counts(&logits, &sampling, 4_000);
        assert!((900..1100).contains(&found[1]) && found[0] + found[1] == 4_000, "{found:?}");
    }

    #[test]
    fn greedy_ignores_filters_and_takes_the_lowest_of_a_tie() {
        let mut scratch = Scratch::default();
        let sampling = Sampling { top_k: 1, top_p: 0.1, ..Sampling::default() };
        assert_eq!(choose(&[1.0, 3.0, 3.0], &sampling, 0, &mut scratch), 1);
    }

    #[test]
    fn a_seed_and_a_position_fix_the_draw() {
        let logits = [0.0; 64];
        let sampling = Sampling { temperature: 1.0, seed: 11, ..Sampling::default() };
        let mut scratch = Scratch::default();
        let a: Vec<_> = (0..32).map(|p| choose(&logits, &sampling, p, &mut scratch)).collect();
        let b: Vec<_> = (0..32).rev().map(|p| choose(&logits, &sampling, p, &mut scratch)).collect();
        assert!(a.iter().eq(b.iter().rev()));
        let other = Sampling { seed: 12, ..sampling };
        assert!((0..32).map(|p| choose(&logits, &other, p, &mut scratch)).ne(a));
    }

    #[test]
    fn log_probabilities_are_those_before_the_filters() {
        let logits = [0.25f32.ln(), 0.5f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
        let sampling = Sampling { temperature: 0.5, top_k: 1, ..Sampling::default() };
        let mut scratch = Scratch::default();
        let chosen = choose(&logits, &sampling, 0, &mut scratch);
        let (logprob, best) = logprobs(chosen, 3, &mut scratch);
        assert!(chosen == 1 && (logprob - 0.5f32.ln()).abs() < 1e-6, "{chosen}: {logprob}");
        assert_eq!(best.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 0, 2], "the lower id of a tie first");
        let (again, all) = logprobs(chosen, 9, &mut scratch);
        assert_eq!((again, all.len()), (logprob, 4));
    }
}
