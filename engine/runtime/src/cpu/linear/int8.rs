//! Products with x rounded to 8 bits. Rows of affine segments are multiplied in whole numbers, those of float segments
//! as ever.

use super::{MAX_CHUNK_ROWS, Source};
use crate::cpu::epilogue::{Block as OutBlock, EpilogueOp, Output, finish};
use crate::cpu::pool::{Pool, Shards};
use crate::cpu::scratch::sized;
use crate::cpu::simd::dispatch;
use crate::cpu::simd::int8::Int8Level;
use crate::cpu::simd::int8::product::{Product, Rounded, panel_len};
use crate::cpu::simd::int8::round::{Block, Order, Round, n_blocks};
use crate::cpu::simd::matvec::{self, Input, Matvec};
use crate::cpu::weight::{Format, Piece, Segment, Weight};

/// Below this many rows of x a thread's help costs more than it gives.
const MIN_PARALLEL_ROWS: usize = 8;
/// Weight rows of a chunk where rows of x are many.
const MANY_CHUNK_ROWS: usize = 32;

const GROUPS: [usize; 3] = [32, 64, 128];

/// Where in the memory of a row what lies.
#[derive(Clone, Copy)]
struct Layout {
    k: usize,
    /// First block in each [`Order`], where a segment reads it.
    orders: [Option<usize>; 2],
    block_stride: usize,
    /// Sums over groups of 32, 64, 128; those over 32 are always made.
    sums: [Option<usize>; 3],
    sum_stride: usize,
}

impl Layout {
    fn of(weight: &Weight) -> Self {
        let k = weight.n_cols();
        let mut layout = Self { k, orders: [None; 2], block_stride: 0, sums: [None; 3], sum_stride: 0 };
        let affine = |segment: &&Segment| matches!(segment, Segment { format: Format::Affine { .. }, .. });
        for (order, place) in Order::ALL.into_iter().zip(&mut layout.orders) {
            if weight.segments().iter().filter(affine).any(|segment| Order::of(segment.format) == order) {
                *place = Some(layout.block_stride);
                layout.block_stride += n_blocks(k);
            }
        }
        for (size, place) in GROUPS.into_iter().zip(&mut layout.sums) {
            let is_read = |format| matches!(format, Format::Affine { group, .. } if group == size);
            if size == 32 || weight.segments().iter().any(|segment| is_read(segment.format)) {
                *place = Some(layout.sum_stride);
                layout.sum_stride += (k / size).next_multiple_of(8);
            }
        }
        layout
    }

    fn round(&self, x: &[f32], blocks: &mut [Block], sums: &mut [f32]) {
        let n = |order: usize| if self.orders[order].is_some() { n_blocks(self.k) } else { 0 };
        let (natural, nibbles) = blocks.split_at_mut(n(0));
        sums.fill(0.0);
        let (of_32, rest) = sums.split_at_mut((self.k / 32).next_multiple_of(8));
        dispatch(Round { x, blocks: [natural, nibbles], sums: of_32 });
        for (size, place) in GROUPS.into_iter().zip(self.sums).skip(1) {
            let Some(at) = place else { continue };
            let parts = of_32.chunks_exact(size / 32).take(self.k / size);
            for (sum, parts) in rest[at - of_32.len()..].iter_mut().zip(parts) {
                *sum = parts.iter().sum();
            }
        }
    }

    /// All rows as a format reads them.
    fn view<'a>(&self, format: Format, n_rows: usize, blocks: &'a [Block], sums: &'a [f32]) -> Rounded<'a> {
        let group = if let Format::Affine { group, .. } = format { group } else { 32 };
        let order =
            Order::ALL.iter().zip(self.orders).find_map(|(&order, at)| at.filter(|_| order == Order::of(format)));
        let sum = GROUPS.iter().zip(self.sums).find_map(|(&size, at)| at.filter(|_| size == group));
        let (order, sum) = order.zip(sum).expect("the layout covers every segment's format");
        Rounded {
            n_rows,
            blocks: &blocks[order..],
            block_stride: self.block_stride,
            sums: &sums[sum..],
            sum_stride: self.sum_stride,
        }
    }
}

/// Whether rounding x has a meaning for `weight`.
pub(super) fn applies(weight: &Weight) -> bool {
    weight.segments().iter().any(|segment| matches!(segment.format, Format::Affine { .. }))
}

/// What this needs of the scratch memory.
pub(super) struct Memory<'a> {
    pub(super) blocks: &'a mut Vec<Block>,
    pub(super) sums: &'a mut Vec<f32>,
    pub(super) panels: &'a mut Vec<u8>,
    pub(super) threads: &'a mut Vec<f32>,
}

pub(super) fn linear(
    pool: &Pool,
    memory: Memory,
    level: Int8Level,
    weight: &Weight,
    x: &Source,
    epilogue: &[EpilogueOp],
    out: &Output,
) {
    let n_rows = x.rows.len();
    let layout = Layout::of(weight);
    let blocks = sized(memory.blocks, n_rows * layout.block_stride, Block::ZERO);
    let sums = sized(memory.sums, n_rows * layout.sum_stride, 0.0);
    round_rows(pool, &layout, x, blocks, sums);
    let n_panel = panel_len(weight.n_cols(), n_rows);
    let n_chunk_rows = match n_panel {
        0 => weight.n_rows().div_ceil(4 * pool.n_threads()).next_multiple_of(8).min(MAX_CHUNK_ROWS),
        _ => MANY_CHUNK_ROWS,
    };
    let block_len = n_rows * n_chunk_rows;
    let values = Shards::new(sized(memory.threads, pool.n_threads() * block_len, 0.0));
    let panels = Shards::new(sized(memory.panels, pool.n_threads() * n_panel, 0));
    pool.run_indexed(weight.n_rows().div_ceil(n_chunk_rows), |chunk_ix, thread_ix| {
        let col = chunk_ix * n_chunk_rows;
        let n_cols = n_chunk_rows.min(weight.n_rows() - col);
        // SAFETY: one part a thread index.
        let (values, panel) =
            unsafe { (values.part(thread_ix * block_len, block_len), panels.part(thread_ix * n_panel, n_panel)) };
        for piece in weight.pieces(col, n_cols) {
            let Piece { segment, row, n_rows: height, at, step } = piece;
            let k = weight.n_cols();
            if matches!(segment.format, Format::Float(_)) {
                floats(&piece, k, x, &mut values[at..], n_chunk_rows);
                continue;
            }
            let x = layout.view(segment.format, n_rows, blocks, sums);
            let out = &mut values[at..];
            let stride = n_chunk_rows;
            Product { segment, n_cols: k, row, n_rows: height, x, panel, out, stride, step }.run_with(level);
        }
        let block = OutBlock { values, stride: n_chunk_rows, row: 0, n_rows, col, n_cols };
        // SAFETY: chunks cover disjoint columns.
        unsafe { finish(epilogue, block, out) };
    });
}

fn round_rows(pool: &Pool, layout: &Layout, x: &Source, blocks: &mut [Block], sums: &mut [f32]) {
    let (n_blocks, n_sums, n_rows) = (layout.block_stride, layout.sum_stride, x.rows.len());
    let (blocks, sums) = (Shards::new(blocks), Shards::new(sums));
    let row = |r: usize| {
        // SAFETY: one row a call, each row once.
        let (blocks, sums) = unsafe { (blocks.part(r * n_blocks, n_blocks), sums.part(r * n_sums, n_sums)) };
        layout.round(x.row(r), blocks, sums);
    };
    if n_rows < MIN_PARALLEL_ROWS {
        return (0..n_rows).for_each(row);
    }
    let per_chunk = n_rows.div_ceil(4 * pool.n_threads());
    pool.run(n_rows.div_ceil(per_chunk), |c| (c * per_chunk..n_rows.min((c + 1) * per_chunk)).for_each(row));
}

/// values[r * stride + i * step] = row i of a piece of floats . x[r]
fn floats(piece: &Piece, k: usize, x: &Source, values: &mut [f32], stride: usize) {
    for first in (0..x.rows.len()).step_by(matvec::MAX_ROWS) {
        let n = matvec::MAX_ROWS.min(x.rows.len() - first);
        let mut inputs = [Input { x: &[], sums: &[] }; matvec::MAX_ROWS];
        for (m, input) in inputs[..n].iter_mut().enumerate() {
            input.x = x.row(first + m);
        }
        let Piece { segment, row, n_rows, step, .. } = *piece;
        let (inputs, out) = (&inputs[..n], &mut values[first * stride..]);
        Matvec { segment, n_cols: k, row, n_rows, inputs, out, stride, step }.run();
    }
}
