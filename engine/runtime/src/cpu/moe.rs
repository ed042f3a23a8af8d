//! Templates moe_route and moe_sum: which experts a row takes, and what they come to.
#![allow(unsafe_code)]

use super::epilogue::{Block, EpilogueOp, Output, finish};
use super::pool::{Pool, Shards};
use super::scratch::{Scratch, sized};

/// For each row of `n_experts` logits the `top_k` experts with the greatest, the lower of equal ones first, as numbers, then
/// their shares: the logits' softmax, over all experts or, with `renormalize`, over those that are taken.
///
/// # Panics
/// If a slice is shorter than its rows.
pub fn moe_route(logits: &[f32], n_rows: usize, n_experts: usize, top_k: usize, renormalize: bool, out: &mut [f32]) {
    assert!(top_k <= n_experts, "{top_k} of {n_experts} experts");
    for (logits, out) in logits.chunks_exact(n_experts).zip(out.chunks_exact_mut(2 * top_k)).take(n_rows) {
        let (ids, shares) = out.split_at_mut(top_k);
        for place in 0..top_k {
            let taken = &ids[..place];
            let free = (0..n_experts).filter(|expert| !taken.contains(&(*expert as f32)));
            let best = free.reduce(|best, expert| if logits[expert] > logits[best] { expert } else { best });
            ids[place] = best.unwrap_or(0) as f32;
        }
        let top = logits[ids[0] as usize];
        let weight = |logit: f32| (logit - top).exp();
        for (share, id) in shares.iter_mut().zip(&*ids) {
            *share = weight(logits[*id as usize]);
        }
        let total: f32 = match renormalize {
            true => shares.iter().sum(),
            false => logits.iter().map(|logit| weight(*logit)).sum(),
        };
        shares.iter_mut().for_each(|share| *share /= total);
    }
}

/// out\[r\] = epilogue(sum over s of share\[r\]\[s\] * x\[r\]\[s\])
#[derive(Debug)]
pub struct MoeSum<'a> {
    /// `[rows][top_k][columns]`.
    pub x: &'a [f32],
    /// For each row `top_k` ids, then their shares.
    pub route: &'a [f32],
    /// Experts that a row takes.
    pub top_k: usize,
    /// Rows.
    pub n_rows: usize,
    /// Columns of the result.
    pub n_cols: usize,
    /// Ops on the result.
    pub epilogue: &'a [EpilogueOp<'a>],
    /// `[rows][columns]`.
    pub out: &'a mut [f32],
}

/// Rows from which several threads are worth it.
const MIN_PARALLEL_ROWS: usize = 8;

/// Computes a [`MoeSum`].
///
/// # Panics
/// If a slice is shorter than its rows.
pub fn moe_sum(pool: &Pool, scratch: &mut Scratch, args: MoeSum) {
    let MoeSum { x, route, top_k, n_rows, n_cols, epilogue, out } = args;
    let out = Output { values: Shards::new(&mut out[..n_rows * n_cols]), stride: n_cols, at: 0 };
    let memory = Shards::new(sized(&mut scratch.threads, pool.n_threads() * n_cols, 0.0));
    let per_chunk = if n_rows < MIN_PARALLEL_ROWS { n_rows.max(1) } else { n_rows.div_ceil(4 * pool.n_threads()) };
    pool.run_indexed(n_rows.div_ceil(per_chunk), |chunk, thread_ix| {
        // SAFETY: memory of this thread index.
        let values = unsafe { memory.part(thread_ix * n_cols, n_cols) };
        for row in chunk * per_chunk..n_rows.min((chunk + 1) * per_chunk) {
            values.fill(0.0);
            for s in 0..top_k {
                let share = route[(2 * row + 1) * top_k + s];
                let x = &x[(row * top_k + s) * n_cols..][..n_cols];
                values.iter_mut().zip(x).for_each(|(sum, x)| *sum += share * x);
            }
            let block = Block { values: &mut *values, stride: n_cols, row, n_rows: 1, col: 0, n_cols };
            // SAFETY: the output row is this chunk's.
            unsafe { finish(epilogue, block, &out) };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_equal_experts_comes_first() {
        let logits = [1.0, 3.0, 3.0, -1.0, 0.0, 0.0, 0.0, 0.0];
        for (renormalize, shares) in [(true, [0.5, 0.5]), (false, [0.464_328, 0.464_328])] {
            let mut out = [f32::NAN; 8];
            moe_route(&logits, 2, 4, 2, renormalize, &mut out);
            assert_eq!((&out[..2], &out[4..6]), (&[1.0, 2.0][..], &[0.0, 1.0][..]));
            assert!(out[2..4].iter().zip(shares).all(|(a, b)| (a - b).abs() < 1e-5), "{out:?}");
            assert!(out[6..].iter().all(|share| (share - if renormalize { 0.5 } else { 0.25 }).abs() < 1e-6));
        }
    }

    #[test]
    fn what_experts_left_is_added_by_shares() {
        let (pool, mut scratch) = (Pool::new(2), Scratch::new());
        for n_rows in [1, 9] {
            let route: Vec<f32> = (0..n_rows).flat_map(|row| [7.0, 2.0, 0.25, row as f32]).collect();
            let x: Vec<f32> = (0..n_rows * 6).map(|ix| ix as f32).collect();
            let mut out = vec![1.0; n_rows * 3];
            let epilogue = &[EpilogueOp::AddOut];
            let args = MoeSum { x: &x, route: &route, top_k: 2, n_rows, n_cols: 3, epilogue, out: &mut out };
            moe_sum(&pool, &mut scratch, args);
            for (ix, out) in out.iter().enumerate() {
                let (row, column) = (ix / 3, ix % 3);
                let at = |s: usize| ((row * 2 + s) * 3 + column) as f32;
                assert_eq!(*out, 1.0 + 0.25 * at(0) + row as f32 * at(1), "row {row} column {column}");
            }
        }
    }
}
