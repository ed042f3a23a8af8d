//! Products of each row with the experts that it takes: template matvec with a stack of experts.
//!
//! Rows are gathered by expert, so that a step reads each matrix that some row takes once, and others not at all. Work is
//! spread over runs of rows of all those matrices.
#![allow(unsafe_code)]

use super::{Layout, MAX_CHUNK_ROWS, NormPrologue, Prepared, Source, max_matvec_rows, product};
use crate::cpu::epilogue::{Block, EpilogueOp, Output, finish, n_out_cols};
use crate::cpu::norm::norm_rows;
use crate::cpu::pool::{Pool, Shards};
use crate::cpu::scratch::{Scratch, sized};
use crate::cpu::simd::dispatch;
use crate::cpu::simd::gemm::{PANEL, PANEL_SCRATCH, Panel};
use crate::cpu::step_view::Rows;
use crate::cpu::weight::Weight;

/// For row r and place s among the experts that it takes, e being `route[r][s]`:
/// out\[r\]\[s\]\[n\] = epilogue(sum over k of W\[e\]\[n, k\] * prologue(x\[r\] or x\[r\]\[s\])\[k\])
#[derive(Debug)]
pub struct ExpertLinear<'a> {
    /// Experts one below the other, each `[N][K]`.
    pub weight: Weight<'a>,
    /// How many of them.
    pub n_experts: usize,
    /// The number of the first; what belongs to others is left as it is.
    pub first_expert: usize,
    /// For each row `top_k` experts as numbers, then their shares.
    pub route: &'a [f32],
    /// Experts that a row takes.
    pub top_k: usize,
    /// `[rows][K]`, or with `each` `[rows][top_k][K]`.
    pub x: &'a [f32],
    /// Whether each of a row's experts has an input of its own.
    pub each: bool,
    /// Rows of the route.
    pub n_rows: usize,
    /// Norm of x, if any.
    pub norm: Option<NormPrologue<'a>>,
    /// Ops on the result.
    pub epilogue: &'a [EpilogueOp<'a>],
    /// `[rows][top_k][columns]`.
    pub out: &'a mut [f32],
}

/// Which rows an expert takes, for every expert. Its memory is kept from call to call.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Where each expert's entries begin in the following, and their end.
    starts: Vec<u32>,
    /// Rows of the result.
    products: Vec<u32>,
    /// Rows of x.
    sources: Vec<u32>,
    /// An expert, and the first of a run of its matrix's rows.
    jobs: Vec<(u32, u32)>,
}

impl Gathered {
    /// Bytes held now.
    pub(crate) fn size_bytes(&self) -> usize {
        4 * (self.starts.capacity() + self.products.capacity() + self.sources.capacity() + 2 * self.jobs.capacity())
    }

    /// Sorts the rows of the result by expert, those of an expert in order. A number that names no expert here is left out.
    fn gather(&mut self, args: &ExpertLinear) {
        let ExpertLinear { route, top_k, n_rows, n_experts, first_expert, each, .. } = *args;
        let expert = |product: usize| {
            let number = route[product / top_k * 2 * top_k + product % top_k];
            // A conversion of what is no number gives 0, of one that is too large the largest.
            (number as usize).checked_sub(first_expert).filter(|expert| *expert < n_experts)
        };
        self.starts.clear();
        self.starts.resize(n_experts + 2, 0);
        (0..n_rows * top_k).filter_map(expert).for_each(|expert| self.starts[expert + 2] += 1);
        for expert in 2..self.starts.len() {
            self.starts[expert] += self.starts[expert - 1];
        }
        let n = self.starts[n_experts + 1] as usize;
        self.products.resize(n, 0);
        self.sources.resize(n, 0);
        for product in 0..n_rows * top_k {
            let Some(expert) = expert(product) else { continue };
            // `starts` is one place ahead, so that what is counted up here becomes the beginning of the next.
            let at = self.starts[expert + 1] as usize;
            self.starts[expert + 1] += 1;
            self.products[at] = product as u32;
            self.sources[at] = if each { product as u32 } else { (product / top_k) as u32 };
        }
    }

    /// The entries of an expert: rows of the result, rows of x.
    fn of(&self, expert: usize) -> (&[u32], &[u32]) {
        let range = self.starts[expert] as usize..self.starts[expert + 1] as usize;
        (&self.products[range.clone()], &self.sources[range])
    }
}

/// Computes an [`ExpertLinear`].
///
/// # Panics
/// If a slice is shorter than its shape needs.
pub fn expert_linear(pool: &Pool, scratch: &mut Scratch, args: ExpertLinear) {
    let k = args.weight.n_cols();
    let n = args.weight.n_rows() / args.n_experts;
    let n_x_rows = if args.each { args.n_rows * args.top_k } else { args.n_rows };
    let Scratch { normed, prepared, threads, gathered, .. } = scratch;
    gathered.gather(&args);
    let ExpertLinear { weight, n_experts, x, norm, epilogue, out, .. } = args;
    let x = match norm {
        None => x,
        Some(norm) => {
            let normed = sized(normed, n_x_rows * k, 0.0);
            norm_rows(pool, x, Rows::All(n_x_rows), norm.weight, norm.eps, normed);
            normed
        }
    };
    let n_few = max_matvec_rows(&weight);
    let layout = Layout::of(&weight);
    let memory = sized(prepared, n_x_rows * layout.stride, 0.0);
    if layout.stride > 0 {
        let all = Source { x, rows: Rows::All(n_x_rows), k };
        memory.chunks_exact_mut(layout.stride).enumerate().for_each(|(r, row)| layout.fill(all.row(r), row));
    }
    let prepared = Prepared { memory, layout };
    let n_chunk_rows = n.div_ceil(8).next_multiple_of(8).min(MAX_CHUNK_ROWS);
    let mut most = 0;
    gathered.jobs.clear();
    for expert in 0..n_experts {
        let n_products = gathered.of(expert).0.len();
        let step = if n_products > n_few { PANEL } else { n_chunk_rows };
        if n_products > 0 {
            gathered.jobs.extend((0..n).step_by(step).map(|row| (expert as u32, row as u32)));
            most = most.max(n_products * step);
        }
    }
    let gathered = &*gathered;
    let n_out = n_out_cols(epilogue, n);
    let out = Output { values: Shards::new(out), stride: n_out, at: 0 };
    let block_len = PANEL_SCRATCH + most;
    let blocks = Shards::new(sized(threads, pool.n_threads() * block_len, 0.0));
    pool.run_indexed(gathered.jobs.len(), |job, thread_ix| {
        let (expert, col) = (gathered.jobs[job].0 as usize, gathered.jobs[job].1 as usize);
        let (products, sources) = gathered.of(expert);
        let x = Source { x, rows: Rows::Sampled(sources), k };
        // SAFETY: one block a thread index.
        let memory = unsafe { blocks.part(thread_ix * block_len, block_len) };
        let (panel, values) = memory.split_at_mut(PANEL_SCRATCH);
        let row = expert * n + col;
        let stride = if products.len() > n_few { PANEL } else { n_chunk_rows };
        let n_cols = stride.min(n - col);
        if products.len() > n_few {
            let rows: Vec<&[f32]> = (0..products.len()).map(|r| x.row(r)).collect();
            dispatch(Panel { weight: &weight, row, x: &rows, scratch: panel, c: values });
        } else {
            product(&weight, &prepared, &x, &|r| sources[r] as usize, row, n_cols, stride, values);
        }
        for (r, row) in products.iter().enumerate() {
            let values = &mut values[r * stride..][..n_cols];
            let block = Block { values, stride: n_cols, row: *row as usize, n_rows: 1, col, n_cols };
            // SAFETY: a row of the result belongs to one expert, and its jobs cover disjoint columns.
            unsafe { finish(epilogue, block, &out) };
        }
    });
}

#[cfg(test)]
mod tests;
