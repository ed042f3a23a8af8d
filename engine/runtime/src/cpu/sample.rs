//! Greedy sampling: templates argmax_partial and argmax_final in one.

use super::pool::{Pool, Shards};
use super::simd::dispatch;
use super::simd::math::Argmax;

/// sampled\[r\] = index of the greatest of logits\[r\], the lowest of equals (NaN is never greatest), for the rows of
/// `n_cols` logits that `n_rows` counts.
///
/// # Panics
/// If a slice is shorter than its rows.
#[allow(unsafe_code)]
pub fn argmax(pool: &Pool, logits: &[f32], n_rows: usize, n_cols: usize, sampled: &mut [u32]) {
    let sampled = Shards::new(&mut sampled[..n_rows]);
    pool.run(n_rows, |r| {
        let best = dispatch(Argmax(&logits[r * n_cols..][..n_cols]));
        // SAFETY: one element a row.
        unsafe { sampled.part(r, 1)[0] = best as u32 };
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_own() {
        let logits = [1.0, 3.0, 3.0, -1.0, -2.0, -1.0];
        let mut sampled = [9; 3];
        argmax(&Pool::new(2), &logits, 2, 3, &mut sampled);
        assert_eq!(sampled, [1, 0, 9]);
    }
}
