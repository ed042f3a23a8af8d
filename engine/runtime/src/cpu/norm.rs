//! Template rms_norm.
#![allow(unsafe_code)]

use super::pool::{Pool, Shards};
use super::rope_kv::Columns;
use super::simd::dispatch;
use super::simd::math::RmsNorm;
use super::step_view::Rows;

/// Below this many rows a thread's help costs more than it gives.
const MIN_PARALLEL_ROWS: usize = 8;

/// out\[r\] = x\[r\] * rsqrt(mean(x^2) + eps) * weight for each of `n_runs` runs of `weight.len()` values of a row.
///
/// # Panics
/// If a slice is shorter than its rows.
pub fn rms_norm(pool: &Pool, x: Columns, (n_rows, n_runs): (usize, usize), weight: &[f32], eps: f32, out: &mut [f32]) {
    let n_cols = weight.len();
    norm_each(pool, n_rows * n_runs, |ix| x.row(ix / n_runs, ix % n_runs * n_cols, n_cols), weight, eps, out);
}

/// out\[r\] = x\[source(r)\] * rsqrt(mean(x^2) + eps) * weight, rows of `weight.len()` values.
pub(crate) fn norm_rows(pool: &Pool, x: &[f32], rows: Rows, weight: &[f32], eps: f32, out: &mut [f32]) {
    let n_cols = weight.len();
    norm_each(pool, rows.len(), |r| &x[rows.source(r) * n_cols..][..n_cols], weight, eps, out);
}

fn norm_each<'a>(
    pool: &Pool,
    n: usize,
    x: impl Fn(usize) -> &'a [f32] + Sync,
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let n_cols = weight.len();
    let out = Shards::new(&mut out[..n * n_cols]);
    let one = |ix: usize| {
        // SAFETY: one output row a call, each row once.
        let out = unsafe { out.part(ix * n_cols, n_cols) };
        dispatch(RmsNorm { x: x(ix), weight, eps, out });
    };
    if n < MIN_PARALLEL_ROWS {
        (0..n).for_each(one);
    } else {
        let per_chunk = n.div_ceil(4 * pool.n_threads());
        pool.run(n.div_ceil(per_chunk), |c| (c * per_chunk..n.min((c + 1) * per_chunk)).for_each(one));
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
                norm_rows(&pool, &x, rows, &weight, 1e-5, &mut out);
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
    #[test]
    fn runs_of_a_part_of_a_row_are_normalized() {
        let (pool, mut random) = (Pool::new(2), Random::new(4));
        let (n_cols, n_runs, stride, at) = (18, 3, 70, 7);
        for n_rows in [1, 9] {
            let (values, weight) = (random.normals(n_rows * stride), random.normals(n_cols));
            let mut out = vec![f32::NAN; n_rows * n_runs * n_cols];
            let x = Columns { values: &values, stride, at };
            rms_norm(&pool, x, (n_rows, n_runs), &weight, 1e-5, &mut out);
            for (ix, found) in out.chunks(n_cols).enumerate() {
                let x = &values[ix / n_runs * stride + at + ix % n_runs * n_cols..][..n_cols];
                let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n_cols as f64;
                let factor = 1.0 / (mean + 1e-5).sqrt();
                let want: Vec<f64> =
                    x.iter().zip(&weight).map(|(&x, &w)| f64::from(x) * factor * f64::from(w)).collect();
                assert_close(found, &want, 1e-6, "run");
            }
        }
    }
}
