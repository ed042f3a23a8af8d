//! The step sizes that a plan has variants for. A variant is compiled for upper bounds; a step takes the first that it fits.

use crate::target::TargetProfile;
use ingot_ir::size::Dims;

/// A variant to be compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// Upper bounds of a step's sizes.
    pub bounds: Dims,
    /// Whether every token's logits are wanted, so that rows are tokens.
    pub all_rows: bool,
}

/// One token of each of 1, 2, 4 ... sequences; a short chunk, whose weights are read at memory speed; a long one. Sizes
/// between are steps of the next larger variant: grids follow the step. Every variant's kernels are the same but for
/// the rows that a matrix-vector product takes at once, so that variants share pipelines.
pub fn run(target: &TargetProfile, max_batch: u32) -> Vec<Bucket> {
    let decode = |n: u32| Bucket { bounds: Dims { tokens: n, sequences: n, rows: n, tiles: n }, all_rows: true };
    let batch = max_batch.max(1).next_power_of_two();
    let sizes = std::iter::successors(Some(1u32), |n| n.checked_mul(2)).take_while(|n| *n <= batch);
    let chunk = |tokens: u32| {
        let sequences = max_batch.clamp(1, tokens);
        let tiles = tokens.div_ceil(target.prefill_q_tile) + sequences;
        let rows = target.max_rows.max(max_batch).min(tokens);
        Bucket { bounds: Dims { tokens, sequences, rows, tiles }, all_rows: false }
    };
    let (short, long) = (target.matvec_rows, target.prefill_tokens.max(batch));
    let mut buckets: Vec<Bucket> = sizes.map(decode).collect();
    buckets.extend((1 < short && short < long).then(|| chunk(short)));
    buckets.push(chunk(long));
    buckets
}
