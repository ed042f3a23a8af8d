//! Template attention: causal attention of a ragged batch over paged keys and values.
#![allow(unsafe_code)]

use super::pages::{PAGE_TOKENS, PageLayout};
use super::pool::{Pool, Shards};
use super::scratch::{Scratch, sized};
use super::simd::attend::{Attend, Rule, scratch_len, sums_stride};
use super::simd::dispatch;
use super::step_view::{Sequence, StepView};
use ingot_ir::kv::Window;

/// Fewest pages of a part when the keys of one tile are spread over threads.
const MIN_PART_PAGES: usize = 8;

/// Operands of [`attention`].
#[derive(Debug)]
pub struct Attention<'a> {
    /// Sequences and tiles.
    pub step: StepView<'a>,
    /// Query heads.
    pub n_heads: usize,
    /// How the layer's pages lie: type, key and value heads (they divide the query heads), values of a head.
    pub layout: PageLayout,
    /// Factor on the scores.
    pub scale: f32,
    /// Queries of a tile.
    pub q_tile: usize,
    /// Keys that a query sees, itself included; 0: all before it.
    pub window: usize,
    /// First keys that stay visible beyond the window.
    pub keep: usize,
    /// Scores become softcap * tanh(score / softcap); 0: they do not.
    pub softcap: f32,
    /// [tokens][n_heads * head_dim]
    pub q: &'a [f32],
    /// The layer's pages.
    pub kv: &'a [u32],
    /// `[page row][max_pages]`
    pub page_table: &'a [u32],
    /// Row length of the page table.
    pub max_pages: usize,
    /// Like q.
    pub out: &'a mut [f32],
}

impl Attention<'_> {
    /// What a query sees.
    fn seen(&self) -> Window {
        Window { window: self.window as u32, keep: self.keep as u32 }
    }
}

/// Queries of one tile.
#[derive(Clone, Copy)]
struct Queries {
    sequence: Sequence,
    /// First query, counted in the sequence's queries of this step.
    first: usize,
    n: usize,
}

impl Queries {
    fn token(&self) -> usize {
        self.sequence.q_start as usize + self.first
    }

    fn position(&self) -> usize {
        (self.sequence.kv_len - self.sequence.q_len) as usize + self.first
    }

    /// Table entries that hold keys of these queries, without those of a range that none of them sees.
    fn n_pages(&self, window: Window) -> usize {
        (self.position() + self.n).div_ceil(PAGE_TOKENS) - self.unseen(window).len()
    }

    /// Table entries in the middle that none of them sees.
    fn unseen(&self, window: Window) -> std::ops::Range<usize> {
        window.unseen(self.position(), PAGE_TOKENS)
    }
}

/// None for a tile without work: beyond its sequence, or a further split (the first does the whole here).
fn queries(step: &StepView, q_tile: usize, tile_ix: usize) -> Option<Queries> {
    let tile = step.tile(tile_ix);
    let sequence = step.sequence(tile.sequence as usize);
    assert!(sequence.q_len <= sequence.kv_len, "a sequence has more queries than keys");
    let first = tile.q_tile as usize * q_tile;
    let n = q_tile.min((sequence.q_len as usize).checked_sub(first)?);
    (n > 0 && tile.kv_split == 0).then_some(Queries { sequence, first, n })
}

/// Computes an [`Attention`].
///
/// # Panics
/// If a slice is shorter than its shape needs, or a page that is needed lies outside the layer's buffer.
pub fn attention(pool: &Pool, scratch: &mut Scratch, args: Attention) {
    let Attention { ref step, n_heads, layout: pages, q_tile, .. } = args;
    let PageLayout { n_kv_heads, head_dim, .. } = pages;
    assert!(n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads), "kv heads divide query heads");
    let n_tiles = step.n_tiles();
    let n_work = n_tiles * n_kv_heads;
    let window = args.seen();
    let (mut n_max, mut n_max_pages, mut next_token, mut in_order) = (0, 0, 0, true);
    for queries in (0..n_tiles).filter_map(|ix| queries(step, q_tile, ix)) {
        n_max = n_max.max(queries.n);
        n_max_pages = n_max_pages.max(queries.n_pages(window));
        in_order &= queries.token() >= next_token;
        next_token = queries.token() + queries.n;
    }
    if n_max == 0 {
        return;
    }
    // Little work but long: each tile's keys are cut into parts, joined at the end.
    let n_parts = (4 * pool.n_threads()).div_ceil(n_work).min(n_max_pages / MIN_PART_PAGES).max(1);
    let n_group = n_heads / n_kv_heads;
    let n_rows = n_max * n_group;
    let layout = Layout { n_rows, stride: sums_stride(head_dim), n_parts };
    let scratch_len = scratch_len(n_rows, &pages);
    let n_results = if n_parts > 1 { n_work * n_parts } else { pool.n_threads() };
    let memory = sized(&mut scratch.threads, pool.n_threads() * scratch_len + n_results * layout.result_len(), 0.0);
    let (scratches, results) = memory.split_at_mut(pool.n_threads() * scratch_len);
    let (scratches, results) = (Shards::new(scratches), Shards::new(results));
    let shape = Shape::of(&args);
    let out = Shards::new(args.out);
    let run = |chunk_ix: usize, thread_ix: usize| {
        let (work_ix, part) = (chunk_ix / n_parts, chunk_ix % n_parts);
        let Some(queries) = queries(&shape.step, q_tile, work_ix / n_kv_heads) else { return };
        let head = work_ix % n_kv_heads;
        let result_ix = if n_parts > 1 { chunk_ix } else { thread_ix };
        // SAFETY: one scratch a thread index; one result a thread index or, in parts, a chunk. The output of a chunk
        // is its queries' and head's alone: see `in_order`.
        unsafe {
            let scratch = scratches.part(thread_ix * scratch_len, scratch_len);
            let result = results.part(result_ix * layout.result_len(), layout.result_len());
            shape.attend(&queries, head, part, n_parts, scratch, layout.split(result));
            if n_parts == 1 {
                shape.write(&queries, head, &layout, result, &out);
            }
        }
    };
    // Tiles in the order of their tokens share none; any other table is taken by one thread.
    if in_order {
        pool.run_indexed(n_work * n_parts, run);
    } else {
        (0..n_work * n_parts).for_each(|chunk_ix| run(chunk_ix, 0));
    }
    if n_parts > 1 {
        for work_ix in 0..n_work {
            let Some(queries) = queries(&shape.step, q_tile, work_ix / n_kv_heads) else { continue };
            // SAFETY: the region has ended.
            unsafe {
                let len = layout.result_len() * n_parts;
                shape.write(&queries, work_ix % n_kv_heads, &layout, results.part(work_ix * len, len), &out);
            }
        }
    }
}

/// How the results of a part lie in memory: sums [rows][stride], then maxima and denominators [rows].
struct Layout {
    n_rows: usize,
    stride: usize,
    n_parts: usize,
}

impl Layout {
    fn result_len(&self) -> usize {
        self.n_rows * (self.stride + 2)
    }

    fn split<'a>(&self, result: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32]) {
        result.split_at_mut(self.n_rows * self.stride)
    }
}

struct Shape<'a> {
    step: StepView<'a>,
    rule: Rule,
    window: Window,
    n_heads: usize,
    layout: PageLayout,
    q: &'a [f32],
    kv: &'a [u32],
    page_table: &'a [u32],
    max_pages: usize,
}

impl<'a> Shape<'a> {
    fn of(args: &Attention<'a>) -> Self {
        let &Attention { step, n_heads, layout, scale, window, keep, softcap, .. } = args;
        let &Attention { q, kv, page_table, max_pages, .. } = args;
        let seen = args.seen();
        let rule = Rule { head_dim: layout.head_dim, scale, window, keep, softcap };
        Self { step, rule, window: seen, n_heads, layout, q, kv, page_table, max_pages }
    }

    fn attend(
        &self,
        queries: &Queries,
        head: usize,
        part: usize,
        n_parts: usize,
        scratch: &mut [f32],
        (sums, stats): (&mut [f32], &mut [f32]),
    ) {
        let (head_dim, n_group) = (self.rule.head_dim, self.n_heads / self.layout.n_kv_heads);
        let q_stride = self.n_heads * head_dim;
        let n_pages = queries.n_pages(self.window);
        let per_part = n_pages.div_ceil(n_parts);
        let table_at = queries.sequence.page_row as usize * self.max_pages;
        dispatch(Attend {
            rule: self.rule,
            q: &self.q[queries.token() * q_stride + head * n_group * head_dim..],
            q_stride,
            n_queries: queries.n,
            n_group,
            position: queries.position(),
            kv_len: queries.sequence.kv_len as usize,
            pages: &self.page_table[table_at..][..self.max_pages],
            unseen: queries.unseen(self.window),
            page_range: n_pages.min(part * per_part)..n_pages.min((part + 1) * per_part),
            kv: self.kv,
            layout: self.layout,
            head,
            scratch,
            sums,
            stats,
        });
    }

    /// Joins the parts' sums and writes them, divided by their denominators.
    ///
    /// # Safety
    /// Nobody else touches the output of these queries and this head.
    unsafe fn write(&self, queries: &Queries, head: usize, layout: &Layout, results: &[f32], out: &Shards<f32>) {
        let (head_dim, n_group) = (self.rule.head_dim, self.n_heads / self.layout.n_kv_heads);
        let n_rows = queries.n * n_group;
        let parts = || {
            results.chunks_exact(layout.result_len()).take(layout.n_parts).map(|result| {
                let (sums, stats) = result.split_at(layout.n_rows * layout.stride);
                // A tile with fewer rows packs its statistics by its own count.
                (sums, &stats[..n_rows], &stats[n_rows..2 * n_rows])
            })
        };
        for r in 0..n_rows {
            let token = queries.token() + r / n_group;
            let at = (token * self.n_heads + head * n_group + r % n_group) * head_dim;
            // SAFETY: the caller's.
            let out = unsafe { out.part(at, head_dim) };
            let max = parts().map(|(_, max, _)| max[r]).fold(f32::NEG_INFINITY, f32::max);
            out.fill(0.0);
            let mut denominator = 0.0;
            for (sums, part_max, part_denominator) in parts().filter(|(_, max, _)| max[r] > f32::NEG_INFINITY) {
                let factor = (part_max[r] - max).exp();
                denominator += factor * part_denominator[r];
                for (out, sum) in out.iter_mut().zip(&sums[r * layout.stride..]) {
                    *out += factor * sum;
                }
            }
            if denominator > 0.0 {
                out.iter_mut().for_each(|v| *v /= denominator);
            }
        }
    }
}

#[cfg(test)]
mod tests;
