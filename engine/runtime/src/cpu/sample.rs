//! Greedy sampling: templates argmax_partial and argmax_final.

use super::pool::{Pool, Shards};
use super::simd::dispatch;
use super::simd::math::Argmax;

/// For each block of each row the greatest number and the bits of its column.
#[allow(unsafe_code)]
pub(crate) fn argmax_partial(pool: &Pool, x: &[f32], n_rows: usize, n: usize, block: usize, out: &mut [f32]) {
    let n_blocks = n.div_ceil(block);
    let out = Shards::new(&mut out[..n_rows * n_blocks * 2]);
    pool.run(n_rows * n_blocks, |ix| {
        let (row, first) = (ix / n_blocks, ix % n_blocks * block);
        let numbers = &x[row * n + first..row * n + n.min(first + block)];
        let best = dispatch(Argmax(numbers));
        // SAFETY: two elements a chunk.
        let pair = unsafe { out.part(ix * 2, 2) };
        pair[0] = numbers[best];
        pair[1] = f32::from_bits((first + best) as u32);
    });
}

/// The column of each row's greatest number, the lowest on a tie.
pub(crate) fn argmax_final(pairs: &[f32], n_rows: usize, n_blocks: usize, sampled: &mut [u32]) {
    for (row, id) in pairs.chunks_exact(n_blocks * 2).take(n_rows).zip(sampled) {
        let mut best = (row[0], row[1].to_bits());
        for pair in row.chunks_exact(2) {
            if pair[0] > best.0 {
                best = (pair[0], pair[1].to_bits());
            }
        }
        *id = best.1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_own_and_a_tie_goes_to_the_lowest() {
        let logits = [1.0, 3.0, 3.0, -1.0, -2.0, -1.0];
        let (mut pairs, mut sampled) = ([f32::NAN; 8], [9; 3]);
        argmax_partial(&Pool::new(2), &logits, 2, 3, 2, &mut pairs);
        argmax_final(&pairs, 2, 2, &mut sampled);
        assert_eq!(sampled, [1, 0, 9]);
    }
}
