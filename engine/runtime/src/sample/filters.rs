//! What may be drawn: top-p, min-p, XTC and top-k, one after the other, on log-probabilities.

use super::Sampling;
use std::cmp::Ordering;

/// Ids by falling log-probability, the lower id first on a tie; sorted only as far as anyone looks.
pub(super) struct Ranking<'a> {
    logprobs: &'a [f32],
    order: &'a mut Vec<u32>,
    n_sorted: usize,
}

impl<'a> Ranking<'a> {
    pub(super) fn new(logprobs: &'a [f32], order: &'a mut Vec<u32>) -> Self {
        order.clear();
        order.extend(0..logprobs.len() as u32);
        Self { logprobs, order, n_sorted: 0 }
    }

    /// The id of a rank and its log-probability.
    pub(super) fn at(&mut self, rank: usize) -> (u32, f32) {
        while rank >= self.n_sorted {
            self.sort_more();
        }
        let id = self.order[rank];
        (id, self.logprobs[id as usize])
    }

    /// Sorts the next ranks, as many as are sorted, so that a walk costs little more than the ranks that it sees.
    fn sort_more(&mut self) {
        const FIRST: usize = 128;
        let rest = &mut self.order[self.n_sorted..];
        let n = self.n_sorted.max(FIRST).min(rest.len());
        let compare = |a: &u32, b: &u32| -> Ordering {
            self.logprobs[*b as usize].total_cmp(&self.logprobs[*a as usize]).then(a.cmp(b))
        };
        if n < rest.len() {
            rest.select_nth_unstable_by(n, compare);
        }
        rest[..n].sort_unstable_by(compare);
        self.n_sorted += n;
    }

    /// How many ranks hold while `keeps` does, asked in order; at least one.
    fn count(&mut self, n_max: usize, mut keeps: impl FnMut(usize, f32) -> bool) -> usize {
        (0..n_max).take_while(|&rank| keeps(rank, self.at(rank).1)).count().max(1)
    }
}

/// Sets what is not to be drawn to negative infinity. `excludes` is whether XTC is applied to this token.
pub fn filter(logprobs: &mut [f32], sampling: &Sampling, excludes: bool, order: &mut Vec<u32>) {
    let by_mass = sampling.top_p > 0.0 && sampling.top_p < 1.0;
    if !by_mass && sampling.min_p == 0.0 && !excludes && sampling.top_k == 0 {
        return;
    }
    let mut ranking = Ranking::new(logprobs, order);
    let mut n_kept = logprobs.len();
    if by_mass {
        n_kept = top_p(&mut ranking, n_kept, sampling.top_p);
    }
    if sampling.min_p > 0.0 {
        let least = ranking.at(0).1 + sampling.min_p.ln();
        let n_least = sampling.min_tokens_to_keep as usize;
        n_kept = ranking.count(n_kept, |rank, logprob| rank < n_least || logprob >= least);
    }
    // Ranks before this one are excluded, but for those that may not be.
    let n_excluded = if excludes { xtc(&mut ranking, n_kept, sampling.xtc_threshold) } else { 0 };
    let mut room = if sampling.top_k == 0 { usize::MAX } else { sampling.top_k as usize };
    if room < n_kept {
        // All ranks that may stay are looked at below.
        ranking.at((n_excluded + room).min(n_kept) - 1);
    }
    for (rank, &id) in order.iter().enumerate() {
        let stays = rank < n_kept && room > 0 && (rank >= n_excluded || sampling.xtc_exempt.contains(&id));
        if stays {
            room -= 1;
        } else {
            logprobs[id as usize] = f32::NEG_INFINITY;
        }
    }
}

/// A token stays while the mass strictly above it is below `p`; ties with the last stay.
fn top_p(ranking: &mut Ranking<'_>, n_max: usize, p: f32) -> usize {
    let total: f64 = ranking.logprobs.iter().map(|logprob| f64::from(*logprob).exp()).sum();
    let wanted = f64::from(p) * total;
    let (mut above, mut last) = (0.0, f32::NAN);
    ranking.count(n_max, |_, logprob| {
        let keeps = above < wanted || logprob == last;
        above += f64::from(logprob).exp();
        last = logprob;
        keeps
    })
}

/// How many of the first ranks are above the least probable one that is above the threshold. Probabilities are those of
/// the tokens that are left.
fn xtc(ranking: &mut Ranking<'_>, n_kept: usize, threshold: f32) -> usize {
    let total: f64 = match n_kept == ranking.logprobs.len() {
        true => ranking.logprobs.iter().map(|logprob| f64::from(*logprob).exp()).sum(),
        false => (0..n_kept).map(|rank| f64::from(ranking.at(rank).1).exp()).sum(),
    };
    let mut n_above = 0;
    while n_above < n_kept && f64::from(ranking.at(n_above).1).exp() > f64::from(threshold) * total {
        n_above += 1;
    }
    let Some(last) = n_above.checked_sub(1) else { return 0 };
    let least = ranking.at(last).1;
    (0..n_above).take_while(|&rank| ranking.at(rank).1 > least).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In no order.
    const PROBABILITIES: [f32; 4] = [0.125, 0.5, 0.125, 0.25];

    fn kept(sampling: &Sampling, excludes: bool) -> Vec<u32> {
        let all = PROBABILITIES.map(f32::ln);
        let (mut logprobs, mut order) = (all.to_vec(), Vec::new());
        filter(&mut logprobs, sampling, excludes, &mut order);
        assert!(logprobs.iter().zip(&all).all(|(a, b)| a == b || *a == f32::NEG_INFINITY), "kept ones are untouched");
        (0..4).filter(|id| logprobs[*id as usize] > f32::NEG_INFINITY).collect()
    }

    #[test]
    fn top_p_keeps_ties_and_top_k_does_not() {
        let top_p = |top_p| kept(&Sampling { top_p, ..Sampling::default() }, false);
        assert_eq!(top_p(0.45), [1]);
        assert_eq!(top_p(0.6), [1, 3]);
        assert_eq!(top_p(0.8), [0, 1, 2, 3], "a tie with the last kept stays");
        assert_eq!(top_p(0.0), [0, 1, 2, 3], "0 is off");
        let top_k = |top_k| kept(&Sampling { top_k, ..Sampling::default() }, false);
        assert_eq!(top_k(1), [1]);
        assert_eq!(top_k(3), [0, 1, 3], "the lower id of a tie");
    }

    #[test]
    fn min_p_keeps_a_share_of_the_best_and_a_least_number() {
        let min_p =
            |min_p, min_tokens_to_keep| kept(&Sampling { min_p, min_tokens_to_keep, ..Sampling::default() }, false);
        assert_eq!(min_p(0.4, 1), [1, 3]);
        assert_eq!(min_p(1.0, 1), [1]);
        assert_eq!(min_p(1.0, 3), [0, 1, 3]);
        assert_eq!(min_p(0.2, 1), [0, 1, 2, 3]);
    }

    #[test]
    fn xtc_leaves_the_least_of_the_top_choices_and_what_is_exempt() {
        let xtc = |xtc_threshold, exempt: &[u32]| Sampling {
            xtc_threshold,
            xtc_exempt: exempt.to_vec(),
            ..Sampling::default()
        };
        assert_eq!(kept(&xtc(0.1, &[]), true), [0, 2], "a tie is no top choice");
        assert_eq!(kept(&xtc(0.2, &[]), true), [0, 2, 3]);
        assert_eq!(kept(&xtc(0.2, &[1]), true), [0, 1, 2, 3]);
        assert_eq!(kept(&xtc(0.4, &[]), true), [0, 1, 2, 3], "a single choice stays");
        assert_eq!(kept(&xtc(0.2, &[]), false), [0, 1, 2, 3], "not this time");
        // After top-p two tokens are left, with two thirds and one third.
        assert_eq!(kept(&Sampling { top_p: 0.6, ..xtc(0.3, &[]) }, true), [3]);
        assert_eq!(kept(&Sampling { top_p: 0.6, ..xtc(0.35, &[]) }, true), [1, 3]);
        assert_eq!(kept(&Sampling { top_k: 1, ..xtc(0.2, &[]) }, true), [3], "top-k counts what XTC left");
    }

    #[test]
    fn long_vocabularies_are_ranked_in_pieces() {
        let logprobs: Vec<f32> = (0..5_000u32).map(|id| -((id.wrapping_mul(2_654_435_761) % 997) as f32)).collect();
        let mut expected: Vec<u32> = (0..5_000).collect();
        expected.sort_by(|a, b| logprobs[*b as usize].total_cmp(&logprobs[*a as usize]));
        let mut order = Vec::new();
        let mut ranking = Ranking::new(&logprobs, &mut order);
        let found: Vec<u32> = (0..5_000).map(|rank| ranking.at(rank).0).collect();
        assert_eq!(found, expected);
    }
}
