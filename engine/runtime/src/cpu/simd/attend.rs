//! Attention of one tile of queries over one kv head's pages: softmax built up block by block.

use super::gemm::{self, PANEL};
use super::{LANES, Op, Simd, math};
use crate::cpu::pages::PageLayout;
use ingot_ir::kv::KvType;

/// Tokens of a page; one panel of the products below.
const PAGE: usize = PANEL;
/// Pages whose scores are held at once.
const BLOCK_PAGES: usize = 4;
/// Scores of one row of a block.
const BLOCK: usize = BLOCK_PAGES * PAGE;
/// Row pointers made at once.
const POINTERS: usize = 48;
/// Fewest rows for which transposing the keys pays.
const MIN_PACKED_ROWS: usize = 6;

/// What all tiles of a call share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
    /// 0: none.
    pub(crate) window: usize,
    pub(crate) keep: usize,
    /// 0: none.
    pub(crate) softcap: f32,
}

impl Rule {
    /// Whether the query at position `p` sees key `j`.
    #[inline(always)]
    fn sees(&self, p: usize, j: usize) -> bool {
        j <= p && (self.window == 0 || j + self.window > p || j < self.keep)
    }

    /// Whether the query at `p` sees all keys of a page that begins at `j`.
    #[inline(always)]
    fn sees_page(&self, p: usize, j: usize) -> bool {
        let last = j + PAGE - 1;
        last <= p && (self.window == 0 || j + self.window > p || last < self.keep)
    }

    /// Whether any query of positions first..=last sees a key of a page that begins at `j`.
    #[inline(always)]
    fn needs_page(&self, first: usize, last: usize, j: usize) -> bool {
        j <= last && (self.window == 0 || j + PAGE - 1 + self.window > first || j < self.keep)
    }
}

/// Values of scratch for `n_rows` rows: see the splits in [`add_block`]; then a block's rows that do not lie in f32.
pub(crate) fn scratch_len(n_rows: usize, pages: &PageLayout) -> usize {
    own_len(n_rows, pages.head_dim) + if pages.kv == KvType::F32 { 0 } else { 2 * BLOCK * pages.head_dim }
}

fn own_len(n_rows: usize, head_dim: usize) -> usize {
    n_rows * BLOCK + head_dim * PAGE + PAGE * PANEL
}

/// Row stride of [`Attend::sums`].
pub(crate) fn sums_stride(head_dim: usize) -> usize {
    head_dim.next_multiple_of(PANEL)
}

/// Softmax numerators times values, row by row, with each row's maximum and denominator.
/// Row r is query r / n_group, head r % n_group of the kv head's group.
pub(crate) struct Attend<'a> {
    pub(crate) rule: Rule,
    /// Starts of the rows' queries: query i, head g at `q[i * q_stride + g * head_dim..]`.
    pub(crate) q: &'a [f32],
    pub(crate) q_stride: usize,
    pub(crate) n_queries: usize,
    pub(crate) n_group: usize,
    /// Position of query 0.
    pub(crate) position: usize,
    pub(crate) kv_len: usize,
    /// The sequence's page table, and which of its entries to go through.
    pub(crate) pages: &'a [u32],
    pub(crate) page_range: std::ops::Range<usize>,
    /// The layer's pages, how they lie, and the kv head.
    pub(crate) kv: &'a [u32],
    pub(crate) layout: PageLayout,
    pub(crate) head: usize,
    pub(crate) scratch: &'a mut [f32],
    /// [rows][`sums_stride`]
    pub(crate) sums: &'a mut [f32],
    /// [rows] maxima, then [rows] denominators.
    pub(crate) stats: &'a mut [f32],
}

/// A page of the block: where its keys and values are, and its first key's index.
#[derive(Clone, Copy)]
struct Page {
    k: *const f32,
    v: *const f32,
    first: usize,
    n_valid: usize,
}

impl Op for Attend<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let n_rows = self.n_queries * self.n_group;
        let head_dim = self.rule.head_dim;
        assert!(self.q.len() >= (self.n_queries - 1) * self.q_stride + self.n_group * head_dim, "queries too short");
        assert!(self.sums.len() >= n_rows * sums_stride(head_dim), "memory for the sums too short");
        assert!(self.scratch.len() >= scratch_len(n_rows, &self.layout), "attention scratch too short");
        let (max, denominator) = self.stats[..2 * n_rows].split_at_mut(n_rows);
        max.fill(f32::NEG_INFINITY);
        denominator.fill(0.0);
        self.sums[..n_rows * sums_stride(head_dim)].fill(0.0);
        let last_position = self.position + self.n_queries - 1;
        let (own, wide) = std::mem::take(&mut self.scratch).split_at_mut(own_len(n_rows, head_dim));
        self.scratch = own;
        let wide = wide.as_mut_ptr();
        let none = Page { k: std::ptr::null(), v: std::ptr::null(), first: 0, n_valid: 0 };
        let mut block = [none; BLOCK_PAGES];
        let mut n_block = 0;
        for ix in self.page_range.clone() {
            let first = ix * PAGE;
            // A page that no query sees may have been given back: its entry means nothing.
            if first >= self.kv_len || !self.rule.needs_page(self.position, last_position, first) {
                continue;
            }
            let n_valid = PAGE.min(self.kv_len - first);
            let [k, v] = [false, true].map(|is_v| {
                let at = self.layout.head_at(self.pages[ix] as usize, is_v, self.head);
                let rows = &self.kv[at..][..self.layout.head_words()];
                if self.layout.kv == KvType::F32 {
                    return bytemuck::cast_slice::<u32, f32>(rows).as_ptr();
                }
                // SAFETY: 2 * BLOCK_PAGES parts of PAGE * head_dim numbers, each lent once a block.
                let wide = unsafe {
                    let at = wide.add((2 * n_block + usize::from(is_v)) * PAGE * head_dim);
                    std::slice::from_raw_parts_mut(at, PAGE * head_dim)
                };
                self.layout.read(rows, n_valid, wide);
                wide.as_ptr()
            });
            block[n_block] = Page { k, v, first, n_valid };
            n_block += 1;
            if n_block == BLOCK_PAGES {
                add_block(s, &mut self, &block, n_rows);
                n_block = 0;
            }
        }
        if n_block > 0 {
            add_block(s, &mut self, &block[..n_block], n_rows);
        }
    }
}

#[inline(always)]
fn add_block<S: Simd>(s: S, tile: &mut Attend, block: &[Page], n_rows: usize) {
    let head_dim = tile.rule.head_dim;
    let stride = sums_stride(head_dim);
    let (scores, rest) = tile.scratch.split_at_mut(n_rows * BLOCK);
    let (keys, tail) = rest.split_at_mut(head_dim * PAGE);
    let mut from = 0;
    while from < n_rows {
        let n = POINTERS.min(n_rows - from);
        let mut rows = [std::ptr::null::<f32>(); POINTERS];
        for (i, row) in rows[..n].iter_mut().enumerate() {
            let r = from + i;
            *row = tile.q[r / tile.n_group * tile.q_stride + r % tile.n_group * head_dim..].as_ptr();
        }
        let rows = &rows[..n];
        for (ix, page) in block.iter().enumerate() {
            // SAFETY: `run` checked queries, pages and scratch; each score row has BLOCK values.
            unsafe {
                let scores = scores.as_mut_ptr().add(from * BLOCK + ix * PAGE);
                if n_rows >= MIN_PACKED_ROWS {
                    // Keys beyond n_valid give scores that the mask replaces, whatever they hold.
                    gemm::pack(s, page.k, head_dim, head_dim, keys);
                    gemm::rows::<S, false>(s, rows, head_dim, keys.as_ptr(), PANEL, scores, BLOCK);
                } else {
                    dots(s, rows, page, head_dim, scores);
                }
            }
        }
        from += n;
    }
    let (max, denominator) = tile.stats[..2 * n_rows].split_at_mut(n_rows);
    for r in 0..n_rows {
        let position = tile.position + r / tile.n_group;
        let scores = &mut scores[r * BLOCK..][..block.len() * PAGE];
        let sums = &mut tile.sums[r * stride..][..stride];
        softmax_row(s, &tile.rule, position, block, scores, sums, &mut max[r], &mut denominator[r]);
    }
    for (ix, page) in block.iter().enumerate() {
        let whole = head_dim / PANEL * PANEL;
        if whole < head_dim {
            tail.fill(0.0);
            for j in 0..page.n_valid {
                for c in whole..head_dim {
                    // SAFETY: a page has 16 rows of head_dim values.
                    tail[j * PANEL + c - whole] = unsafe { *page.v.add(j * head_dim + c) };
                }
            }
        }
        let mut from = 0;
        while from < n_rows {
            let n = POINTERS.min(n_rows - from);
            let mut rows = [std::ptr::null::<f32>(); POINTERS];
            for (i, row) in rows[..n].iter_mut().enumerate() {
                *row = scores[(from + i) * BLOCK + ix * PAGE..].as_ptr();
            }
            // SAFETY: n_valid <= 16 scores a row and rows of V; sums has rows of `stride`, a multiple of 16.
            unsafe {
                let sums = tile.sums.as_mut_ptr().add(from * stride);
                for c in (0..whole).step_by(PANEL) {
                    gemm::rows::<S, true>(s, &rows[..n], page.n_valid, page.v.add(c), head_dim, sums.add(c), stride);
                }
                if whole < head_dim {
                    let c = sums.add(whole);
                    gemm::rows::<S, true>(s, &rows[..n], page.n_valid, tail.as_ptr(), PANEL, c, stride);
                }
            }
            from += n;
        }
    }
}

/// scores[r * BLOCK + j] = q row r . key j, for the written keys of a page.
///
/// # Safety
/// `head_dim` values at each row, 16 rows at the page's keys, 16 scores a row.
#[inline(always)]
unsafe fn dots<S: Simd>(s: S, rows: &[*const f32], page: &Page, head_dim: usize, scores: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        match *rows {
            [a] => dots_of(s, [a], page, head_dim, scores),
            [a, b] => dots_of(s, [a, b], page, head_dim, scores),
            [a, b, c] => dots_of(s, [a, b, c], page, head_dim, scores),
            [a, b, c, d] => dots_of(s, [a, b, c, d], page, head_dim, scores),
            _ => {
                for (r, &row) in rows.iter().enumerate() {
                    dots_of(s, [row], page, head_dim, scores.add(r * BLOCK));
                }
            }
        }
    }
}

/// # Safety
/// As [`dots`].
#[inline(always)]
unsafe fn dots_of<S: Simd, const R: usize>(
    s: S,
    rows: [*const f32; R],
    page: &Page,
    head_dim: usize,
    scores: *mut f32,
) {
    let n_vector = head_dim / LANES * LANES;
    // SAFETY: the caller's.
    unsafe {
        for j in 0..page.n_valid {
            let key = page.k.add(j * head_dim);
            let mut acc = [s.splat(0.0); R];
            let mut c = 0;
            while c < n_vector {
                let key = s.load(key.add(c));
                for r in 0..R {
                    acc[r] = s.fma(key, s.load(rows[r].add(c)), acc[r]);
                }
                c += LANES;
            }
            for r in 0..R {
                let mut dot = s.sum(acc[r]);
                for c in n_vector..head_dim {
                    dot += *key.add(c) * *rows[r].add(c);
                }
                *scores.add(r * BLOCK + j) = dot;
            }
        }
    }
}

/// Turns one row's products into softmax numerators, and rescales what was summed before if the maximum grew.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn softmax_row<S: Simd>(
    s: S,
    rule: &Rule,
    position: usize,
    block: &[Page],
    scores: &mut [f32],
    sums: &mut [f32],
    max: &mut f32,
    denominator: &mut f32,
) {
    for (page, scores) in block.iter().zip(scores.chunks_exact_mut(PAGE)) {
        if rule.softcap == 0.0 {
            scores.iter_mut().for_each(|v| *v *= rule.scale);
        } else {
            scores.iter_mut().for_each(|v| *v = rule.softcap * (*v * rule.scale / rule.softcap).tanh());
        }
        if !rule.sees_page(position, page.first) {
            for (j, score) in scores.iter_mut().enumerate() {
                if !rule.sees(position, page.first + j) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }
    // SAFETY of the loads and stores below: scores and sums are whole panels of 16.
    let mut block_max = s.splat(f32::NEG_INFINITY);
    for chunk in scores.chunks_exact(LANES) {
        block_max = s.max(block_max, unsafe { s.load(chunk.as_ptr()) });
    }
    let block_max = s.max_lane(block_max);
    if block_max == f32::NEG_INFINITY {
        scores.fill(0.0);
        return;
    }
    if block_max > *max {
        let factor = (*max - block_max).exp();
        *max = block_max;
        *denominator *= factor;
        let factor = s.splat(factor);
        for chunk in sums.chunks_exact_mut(LANES) {
            unsafe { s.store(chunk.as_mut_ptr(), s.mul(s.load(chunk.as_ptr()), factor)) };
        }
    }
    let max = s.splat(*max);
    let mut total = s.splat(0.0);
    for chunk in scores.chunks_exact_mut(LANES) {
        unsafe {
            let numerator = math::exp(s, s.sub(s.load(chunk.as_ptr()), max));
            s.store(chunk.as_mut_ptr(), numerator);
            total = s.add(total, numerator);
        }
    }
    *denominator += s.sum(total);
}
