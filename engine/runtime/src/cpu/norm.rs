//! Template rms_norm.
#![allow(unsafe_code)]

use super::pool::{Pool, Shards};
use super::simd::dispatch;
use super::simd::math::RmsNorm;
use super::step_view::Rows;

/// Below this many rows a thread's help costs more than it gives.
const MIN_PARALLEL_ROWS: usize = 8;

/// out\[r\] = x\[source(r)\] * rsqrt(mean(x^2) + eps) * weight, rows of `weight.len()` values.
///
/// # Panics
/// If a slice is shorter than its rows.
pub fn rms_norm(pool: &Pool, x: &[f32], rows: Rows, weight: &[f32], eps: f32, out: &mut [f32]) {
    norm_rows(pool, x, rows, weight, eps, out);
}

pub(crate) fn norm_rows(pool: &Pool, x: &[f32], rows: Rows, weight: &[f32], eps: f32, out: &mut [f32]) {
    let n_cols = weight.len();
    let out = Shards::new(&mut out[..rows.len() * n_cols]);
    let row = |r: usize| {
        // SAFETY: one output row a call, each row once.
        let out = unsafe { out.part(r * n_cols, n_cols) };
        dispatch(RmsNorm { x: &x[rows.source(r) * n_cols..][..n_cols], weight, eps, out });
    };
    if rows.len() < MIN_PARALLEL_ROWS {
        (0..rows.len()).for_each(row);
    } else {
        let per_chunk = rows.len().div_ceil(4 * pool.n_threads());
        pool.run(rows.len().div_ceil(per_chunk), |c| {
            (c * per_chunk..rows.len().min((c + 1) * per_chunk)).for_each(row);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Random, assert_close};

    #[test]
    fn rows_are_normalized() {
        let pool = Pool::new(3);
        let mut random = Random::new(3);
        for (n_cols, n_tokens) in [(2, 1), (66, 5), (576, 30), (28_672, 2)] {
            let mut x = random.normals(n_cols * n_tokens);
            x[0] = 1e5;
            let weight = random.normals(n_cols);
            let sampled = [n_tokens as u32 - 1, 0];
            for rows in [Rows::All(n_tokens), Rows::Sampled(&sampled)] {
                let mut out = vec![f32::NAN; rows.len() * n_cols];
                rms_norm(&pool, &x, rows, &weight, 1e-5, &mut out);
                for r in 0..rows.len() {
                    let x = &x[rows.source(r) * n_cols..][..n_cols];
                    let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n_cols as f64;
                    let want: Vec<f64> = x
                        .iter()
                        .zip(&weight)
                        .map(|(&x, &w)| f64::from(x) / (mean + 1e-5).sqrt() * f64::from(w))
                        .collect();
                    assert_close(&out[r * n_cols..][..n_cols], &want, 1e-6, "norm");
                }
            }
        }
    }
}
