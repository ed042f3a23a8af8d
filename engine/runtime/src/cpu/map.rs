//! Template map: an epilogue on its own.
#![allow(unsafe_code)]

use super::epilogue::{Block, EpilogueOp, Output, finish, n_out_cols};
use super::pool::{Pool, Shards};
use super::scratch::{Scratch, sized};

/// Rows below which one thread is enough.
const MIN_PARALLEL_VALUES: usize = 16_384;

/// out = epilogue(x), element-wise over `n_rows` rows of `n_cols` columns of x. Without `x` the values of `out` are the
/// input and are replaced (the plan may alias the two).
///
/// # Panics
/// If a slice is shorter than its rows.
pub fn map(
    pool: &Pool,
    scratch: &mut Scratch,
    x: Option<&[f32]>,
    n_rows: usize,
    n_cols: usize,
    epilogue: &[EpilogueOp],
    out: &mut [f32],
) {
    if n_rows == 0 || n_cols == 0 {
        return;
    }
    let n_out = n_out_cols(epilogue, n_cols);
    assert!(x.is_some() || n_out == n_cols, "a map in place keeps its width");
    let out = Output { values: Shards::new(&mut out[..n_rows * n_out]), stride: n_out, at: 0 };
    let n_threads = if n_rows * n_cols < MIN_PARALLEL_VALUES { 1 } else { pool.n_threads() };
    let memory = Shards::new(sized(&mut scratch.threads, pool.n_threads() * n_cols, 0.0));
    let per_chunk = n_rows.div_ceil(4 * n_threads);
    let n_chunks = if n_threads == 1 { 1 } else { n_rows.div_ceil(per_chunk) };
    let per_chunk = n_rows.div_ceil(n_chunks);
    pool.run_indexed(n_chunks, |chunk_ix, thread_ix| {
        for row in chunk_ix * per_chunk..n_rows.min((chunk_ix + 1) * per_chunk) {
            // SAFETY: memory of this thread index; the output row is this chunk's.
            unsafe {
                let values = memory.part(thread_ix * n_cols, n_cols);
                match x {
                    Some(x) => values.copy_from_slice(&x[row * n_cols..][..n_cols]),
                    None => values.copy_from_slice(out.values.part(row * n_cols, n_cols)),
                }
                finish(epilogue, Block { values, stride: n_cols, row, n_rows: 1, col: 0, n_cols }, &out);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Random, assert_close};

    #[test]
    fn ops_apply_in_order_in_place_and_not() {
        let (pool, mut scratch, mut random) = (Pool::new(2), Scratch::new(), Random::new(9));
        for (n_rows, n_cols) in [(1, 2), (3, 34), (60, 576)] {
            let (x, y, b) = (random.normals(n_rows * n_cols), random.normals(n_rows * n_cols), random.normals(n_cols));
            let ops = [EpilogueOp::Bias(&b), EpilogueOp::Silu, EpilogueOp::Mul { operand: &y, stride: n_cols }];
            let want: Vec<f64> = (0..n_rows * n_cols)
                .map(|i| {
                    let v = f64::from(x[i]) + f64::from(b[i % n_cols]);
                    v / (1.0 + (-v).exp()) * f64::from(y[i])
                })
                .collect();
            let mut out = vec![f32::NAN; x.len()];
            map(&pool, &mut scratch, Some(&x), n_rows, n_cols, &ops, &mut out);
            assert_close(&out, &want, 1e-6, "map");
            let mut out = x.clone();
            map(&pool, &mut scratch, None, n_rows, n_cols, &ops, &mut out);
            assert_close(&out, &want, 1e-6, "map in place");
            let mut out = vec![f32::NAN; x.len() / 2];
            map(&pool, &mut scratch, Some(&x), n_rows, n_cols, &[EpilogueOp::SiluMulPair], &mut out);
            let want: Vec<f64> =
                x.chunks(2).map(|p| f64::from(p[0]) / (1.0 + (-f64::from(p[0])).exp()) * f64::from(p[1])).collect();
            assert_close(&out, &want, 1e-6, "pairs");
        }
    }
}
