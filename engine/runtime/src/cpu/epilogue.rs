//! What follows a product in the same dispatch: typed ops, applied to each finished block in order.

use super::pool::Shards;
use super::simd::dispatch;
use super::simd::math::{Function, Map, MulPair};

/// One op on the accumulator v of row r, column n. Columns count from 0 whatever OUT_AT is.
#[derive(Clone, Copy, Debug)]
pub enum EpilogueOp<'a> {
    /// v += bias\[n\]
    Bias(&'a [f32]),
    /// v += operand\[r * stride + n\]
    Add {
        /// Rows of `stride` values.
        operand: &'a [f32],
        /// Values from row to row.
        stride: usize,
    },
    /// v += out\[r, n\]: the residual in place.
    AddOut,
    /// v *= operand\[r * stride + n\]
    Mul {
        /// Rows of `stride` values.
        operand: &'a [f32],
        /// Values from row to row.
        stride: usize,
    },
    /// v = v / (1 + e^-v)
    Silu,
    /// The tanh form of GELU.
    Gelu,
    /// Columns 2n (gate) and 2n + 1 (up) become column n = silu(gate) * up: half as many columns.
    SiluMulPair,
    /// The same with GELU.
    GeluMulPair,
    /// v *= the factor.
    Scale(f32),
    /// v = cap * tanh(v / cap)
    Softcap(f32),
}

impl EpilogueOp<'_> {
    fn pairs(&self) -> bool {
        matches!(self, Self::SiluMulPair | Self::GeluMulPair)
    }
}

/// Columns that are left of `n_cols`.
#[must_use]
pub fn n_out_cols(ops: &[EpilogueOp], n_cols: usize) -> usize {
    ops.iter().fold(n_cols, |n, op| if op.pairs() { n / 2 } else { n })
}

/// Results of a region: columns `at..` of rows of `stride` values.
pub(crate) struct Output<'a> {
    pub(crate) values: Shards<'a, f32>,
    pub(crate) stride: usize,
    pub(crate) at: usize,
}

/// A block of accumulators: rows `row..row + n_rows`, columns `col..col + n_cols`, `stride` values from row to row.
pub(crate) struct Block<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) row: usize,
    pub(crate) n_rows: usize,
    pub(crate) col: usize,
    pub(crate) n_cols: usize,
}

/// Applies `ops` to the block and writes it.
///
/// # Safety
/// No other thread reads or writes the block's part of the output.
#[allow(unsafe_code)]
pub(crate) unsafe fn finish(ops: &[EpilogueOp], mut block: Block, out: &Output) {
    for op in ops {
        match *op {
            EpilogueOp::Bias(bias) => each_row(&mut block, |_, col, v| add(v, &bias[col..])),
            EpilogueOp::Add { operand, stride } => {
                each_row(&mut block, |row, col, v| add(v, &operand[row * stride + col..]));
            }
            EpilogueOp::Mul { operand, stride } => each_row(&mut block, |row, col, v| {
                let operand = &operand[row * stride + col..][..v.len()];
                for (v, factor) in v.iter_mut().zip(operand) {
                    *v *= factor;
                }
            }),
            EpilogueOp::AddOut => each_row(&mut block, |row, col, v| {
                // SAFETY: the caller's: this part of the output is the block's own.
                let old = unsafe { out.values.part(row * out.stride + out.at + col, v.len()) };
                add(v, old);
            }),
            EpilogueOp::Silu => function(&mut block, Function::Silu),
            EpilogueOp::Gelu => function(&mut block, Function::Gelu),
            EpilogueOp::Scale(factor) => each_row(&mut block, |_, _, v| v.iter_mut().for_each(|v| *v *= factor)),
            EpilogueOp::Softcap(cap) => function(&mut block, Function::Softcap(cap)),
            EpilogueOp::SiluMulPair | EpilogueOp::GeluMulPair => {
                assert!(block.col.is_multiple_of(2) && block.n_cols.is_multiple_of(2), "a block splits a pair");
                (block.col, block.n_cols) = (block.col / 2, block.n_cols / 2);
                let (stride, n_rows) = (block.stride, block.n_rows);
                let is_gelu = matches!(op, EpilogueOp::GeluMulPair);
                dispatch(MulPair { is_gelu, values: block.values, stride, n_rows, n_pairs: block.n_cols });
            }
        }
    }
    each_row(&mut block, |row, col, v| {
        // SAFETY: as above.
        unsafe { out.values.part(row * out.stride + out.at + col, v.len()) }.copy_from_slice(v);
    });
}

#[inline]
fn each_row(block: &mut Block, f: impl Fn(usize, usize, &mut [f32])) {
    for r in 0..block.n_rows {
        f(block.row + r, block.col, &mut block.values[r * block.stride..][..block.n_cols]);
    }
}

#[inline]
fn add(values: &mut [f32], operand: &[f32]) {
    let operand = &operand[..values.len()];
    for (v, a) in values.iter_mut().zip(operand) {
        *v += a;
    }
}

fn function(block: &mut Block, function: Function) {
    if block.stride == block.n_cols {
        return dispatch(Map(function, &mut block.values[..block.n_rows * block.n_cols]));
    }
    each_row(block, |_, _, v| dispatch(Map(function, v)));
}
