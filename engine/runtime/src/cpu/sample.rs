//! Greedy sampling: templates sample_partial and sample_final. What else there is to choosing a token is done on logits that
//! are handed out (`crate::sample`).

use super::pool::{Pool, Shards};
use super::simd::dispatch;
use super::simd::math::Argmax;
use ingot_ir::kernel::PART_WORDS;

const WORDS: usize = PART_WORDS as usize;

/// For each block of each row the greatest number, and in the last of its words the bits of its column.
#[allow(unsafe_code)]
pub(crate) fn argmax_partial(pool: &Pool, x: &[f32], n_rows: usize, n: usize, block: usize, out: &mut [f32]) {
    let n_blocks = n.div_ceil(block);
    let out = Shards::new(&mut out[..n_rows * n_blocks * WORDS]);
    pool.run(n_rows * n_blocks, |ix| {
        let (row, first) = (ix / n_blocks, ix % n_blocks * block);
        let numbers = &x[row * n + first..row * n + n.min(first + block)];
        let best = dispatch(Argmax(numbers));
        // SAFETY: so many elements a chunk.
        let part = unsafe { out.part(ix * WORDS, WORDS) };
        part.copy_from_slice(&[numbers[best], 0.0, numbers[best], f32::from_bits((first + best) as u32)]);
    });
}

/// The column of each row's greatest number, the lowest on a tie.
pub(crate) fn argmax_final(parts: &[f32], n_rows: usize, n_blocks: usize, sampled: &mut [u32]) {
    for (row, id) in parts.chunks_exact(n_blocks * WORDS).take(n_rows).zip(sampled) {
        let mut best = (row[0], row[3].to_bits());
        for part in row.chunks_exact(WORDS) {
            if part[0] > best.0 {
                best = (part[0], part[3].to_bits());
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
        let (mut parts, mut sampled) = ([f32::NAN; 16], [9; 3]);
        argmax_partial(&Pool::new(2), &logits, 2, 3, 2, &mut parts);
        argmax_final(&parts, 2, 2, &mut sampled);
        assert_eq!(sampled, [1, 0, 9]);
    }
}
