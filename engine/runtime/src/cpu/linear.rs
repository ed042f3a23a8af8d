//! Products with a weight matrix: templates matvec and matmul.
//!
//! Few rows of x: each weight row is read once, as stored. Many rows: 16 weight rows at a time are decoded and packed,
//! then all rows of x pass over them in register tiles. Both spread over weight rows. With x rounded to 8 bits both
//! ways are those of [`int8`].
#![allow(unsafe_code)]

pub mod experts;
mod int8;

use super::activations::Activations;
use super::epilogue::{Block, EpilogueOp, Output, finish, n_out_cols};
use super::norm::norm_rows;
use super::pool::{Pool, Shards};
use super::scratch::{Scratch, sized};
use super::simd::dispatch;
use super::simd::gemm::{PANEL, PANEL_SCRATCH, Panel};
use super::simd::int8::Int8Level;
use super::simd::matvec::{self, Input, Matvec, Order, group_sums};
use super::step_view::Rows;
use super::weight::{FloatType, Format, Piece, Weight};

/// A root-mean-square norm of each row of x before the product.
#[derive(Clone, Copy, Debug)]
pub struct NormPrologue<'a> {
    /// One factor a column.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// out\[r, out_at + n\] = epilogue(sum over k of W\[n, k\] * prologue(x\[source(r)\])\[k\])
#[derive(Debug)]
pub struct Linear<'a> {
    /// W, `[N][K]`.
    pub weight: Weight<'a>,
    /// `[tokens][K]`.
    pub x: &'a [f32],
    /// Which rows of x.
    pub rows: Rows<'a>,
    /// Norm of x, if any.
    pub norm: Option<NormPrologue<'a>>,
    /// Ops on the result.
    pub epilogue: &'a [EpilogueOp<'a>],
    /// `[rows][out_stride]`.
    pub out: &'a mut [f32],
    /// Values from row to row of `out`.
    pub out_stride: usize,
    /// First column written.
    pub out_at: usize,
    /// What affine rows of W are multiplied with.
    pub activations: Activations,
}

/// Most rows for which reading the weights as stored is the faster way (measured: decoding and packing a weight costs
/// as much as eight to sixteen products).
fn max_matvec_rows(weight: &Weight) -> usize {
    let of = |format| match (format, Order::of(format)) {
        (Format::Float(FloatType::F32), _) => 12,
        (Format::Affine { .. } | Format::SmallFloat(_) | Format::K(_), Order::Natural) => 8,
        _ => 16,
    };
    weight.segments().iter().map(|segment| of(segment.format)).min().unwrap_or(0)
}

/// Most weight rows of one chunk of the matrix-vector way.
const MAX_CHUNK_ROWS: usize = 256;

/// Computes a [`Linear`].
///
/// # Panics
/// If a slice is shorter than its shape needs.
pub fn linear(pool: &Pool, scratch: &mut Scratch, args: Linear) {
    let Linear { weight, x, rows, norm, epilogue, out, out_stride, out_at, activations } = args;
    let (n_rows, k) = (rows.len(), weight.n_cols());
    if n_rows == 0 || weight.n_rows() == 0 {
        return;
    }
    let n_out = n_out_cols(epilogue, weight.n_rows());
    assert!(out_at + n_out <= out_stride, "columns {out_at}+{n_out} do not fit rows of {out_stride}");
    assert!(out.len() >= (n_rows - 1) * out_stride + out_at + n_out, "output shorter than its rows");
    let Scratch { normed, prepared, rounded, panels, threads, .. } = scratch;
    let x = match norm {
        None => Source { x, rows, k },
        Some(norm) => {
            let normed = sized(normed, n_rows * k, 0.0);
            norm_rows(pool, x, rows, norm.weight, norm.eps, normed);
            Source { x: normed, rows: Rows::All(n_rows), k }
        }
    };
    let out = Output { values: Shards::new(out), stride: out_stride, at: out_at };
    if activations == Activations::Int8 && int8::applies(&weight) {
        let memory = int8::Memory { blocks: rounded, sums: prepared, panels, threads };
        int8::linear(pool, memory, Int8Level::detect(), &weight, &x, epilogue, &out);
    } else if n_rows <= max_matvec_rows(&weight) {
        few_rows(pool, prepared, threads, &weight, &x, epilogue, &out);
    } else {
        many_rows(pool, threads, &weight, &x, epilogue, &out);
    }
}

struct Source<'a> {
    x: &'a [f32],
    rows: Rows<'a>,
    k: usize,
}

impl<'a> Source<'a> {
    fn row(&self, r: usize) -> &'a [f32] {
        &self.x[self.rows.source(r) * self.k..][..self.k]
    }
}

/// Rows of x in the orders that the weight's formats read, made once for all weight rows.
struct Prepared<'a> {
    memory: &'a [f32],
    layout: Layout,
}

/// Where in a row of the prepared memory what lies; None where no segment needs it.
#[derive(Clone, Copy, Default)]
struct Layout {
    nibbles: Option<usize>,
    bytes: Option<usize>,
    /// Sums over groups of 32, 64, 128.
    sums: [Option<usize>; 3],
    stride: usize,
}

const GROUPS: [usize; 3] = [32, 64, 128];

impl Layout {
    fn of(weight: &Weight) -> Self {
        let mut layout = Self::default();
        let k = weight.n_cols();
        for segment in weight.segments() {
            let Format::Affine { group, .. } = segment.format else { continue };
            let order = match Order::of(segment.format) {
                Order::Natural => None,
                Order::Nibbles => Some(&mut layout.nibbles),
                Order::Bytes => Some(&mut layout.bytes),
            };
            if let Some(place @ None) = order {
                *place = Some(layout.stride);
                layout.stride += k;
            }
            for (place, size) in layout.sums.iter_mut().zip(GROUPS) {
                if size == group && place.is_none() {
                    *place = Some(layout.stride);
                    layout.stride += padded_groups(k, group);
                }
            }
        }
        layout
    }

    fn fill(&self, x: &[f32], row: &mut [f32]) {
        let k = x.len();
        for (place, order) in [(self.nibbles, Order::Nibbles), (self.bytes, Order::Bytes)] {
            if let Some(at) = place {
                order.prepare(x, &mut row[at..at + k]);
            }
        }
        for (place, group) in self.sums.into_iter().zip(GROUPS) {
            if let Some(at) = place {
                group_sums(x, group, &mut row[at..at + padded_groups(k, group)]);
            }
        }
    }
}

fn padded_groups(k: usize, group: usize) -> usize {
    (k / group).next_multiple_of(8)
}

impl<'a> Prepared<'a> {
    /// Row `r` for weights of `format`, where `x` is the row itself.
    fn input(&self, format: Format, r: usize, x: &'a [f32]) -> Input<'a> {
        let Format::Affine { group, .. } = format else { return Input { x, sums: &[] } };
        let row = &self.memory[r * self.layout.stride..];
        let place = match Order::of(format) {
            Order::Natural => None,
            Order::Nibbles => self.layout.nibbles,
            Order::Bytes => self.layout.bytes,
        };
        let sums_at = GROUPS.iter().zip(self.layout.sums).find_map(|(&size, at)| at.filter(|_| size == group));
        let sums_at = sums_at.expect("the layout covers every segment's format");
        Input {
            x: place.map_or(x, |at| &row[at..at + x.len()]),
            sums: &row[sums_at..sums_at + padded_groups(x.len(), group)],
        }
    }
}

fn few_rows(
    pool: &Pool,
    prepared: &mut Vec<f32>,
    threads: &mut Vec<f32>,
    weight: &Weight,
    x: &Source,
    epilogue: &[EpilogueOp],
    out: &Output,
) {
    let n_rows = x.rows.len();
    let layout = Layout::of(weight);
    let memory = sized(prepared, n_rows * layout.stride, 0.0);
    if layout.stride > 0 {
        for (r, row) in memory.chunks_exact_mut(layout.stride).enumerate() {
            layout.fill(x.row(r), row);
        }
    }
    let prepared = Prepared { memory, layout };
    // Some four chunks a thread even out what the threads lose to others; a multiple of 8 keeps pairs together.
    let n_chunk_rows = weight.n_rows().div_ceil(4 * pool.n_threads()).next_multiple_of(8).min(MAX_CHUNK_ROWS);
    let n_chunks = weight.n_rows().div_ceil(n_chunk_rows);
    let block_len = n_rows * n_chunk_rows;
    let blocks = Shards::new(sized(threads, pool.n_threads() * block_len, 0.0));
    pool.run_indexed(n_chunks, |chunk_ix, thread_ix| {
        let col = chunk_ix * n_chunk_rows;
        let n_cols = n_chunk_rows.min(weight.n_rows() - col);
        // SAFETY: one block a thread index.
        let values = unsafe { blocks.part(thread_ix * block_len, block_len) };
        product(weight, &prepared, x, &|r| r, col, n_cols, n_chunk_rows, values);
        let block = Block { values, stride: n_chunk_rows, row: 0, n_rows, col, n_cols };
        // SAFETY: chunks cover disjoint columns.
        unsafe { finish(epilogue, block, out) };
    });
}

/// values[r * stride + i] = weight row (col + i) . x[r], where row r was prepared as `place(r)`
#[allow(clippy::too_many_arguments)]
fn product(
    weight: &Weight,
    prepared: &Prepared,
    x: &Source,
    place: &dyn Fn(usize) -> usize,
    col: usize,
    n_cols: usize,
    stride: usize,
    values: &mut [f32],
) {
    for Piece { segment, row, n_rows, at, step } in weight.pieces(col, n_cols) {
        for first in (0..x.rows.len()).step_by(matvec::MAX_ROWS) {
            let n = matvec::MAX_ROWS.min(x.rows.len() - first);
            let mut inputs = [Input { x: &[], sums: &[] }; matvec::MAX_ROWS];
            for (m, input) in inputs[..n].iter_mut().enumerate() {
                *input = prepared.input(segment.format, place(first + m), x.row(first + m));
            }
            let out = &mut values[first * stride + at..];
            let (n_cols, inputs) = (weight.n_cols(), &inputs[..n]);
            Matvec { segment, n_cols, row, n_rows, inputs, out, stride, step }.run();
        }
    }
}

fn many_rows(pool: &Pool, threads: &mut Vec<f32>, weight: &Weight, x: &Source, epilogue: &[EpilogueOp], out: &Output) {
    let n_rows = x.rows.len();
    let rows: Vec<&[f32]> = (0..n_rows).map(|r| x.row(r)).collect();
    let block_len = PANEL_SCRATCH + n_rows * PANEL;
    let blocks = Shards::new(sized(threads, pool.n_threads() * block_len, 0.0));
    pool.run_indexed(weight.n_rows().div_ceil(PANEL), |panel_ix, thread_ix| {
        let row = panel_ix * PANEL;
        // SAFETY: one block a thread index.
        let memory = unsafe { blocks.part(thread_ix * block_len, block_len) };
        let (scratch, values) = memory.split_at_mut(PANEL_SCRATCH);
        dispatch(Panel { weight, row, x: &rows, scratch, c: values });
        let n_cols = PANEL.min(weight.n_rows() - row);
        let block = Block { values, stride: PANEL, row: 0, n_rows, col: row, n_cols };
        // SAFETY: panels cover disjoint columns.
        unsafe { finish(epilogue, block, out) };
    });
}

#[cfg(test)]
mod tests;
