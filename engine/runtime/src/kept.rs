//! Keys and values of a text, taken out of the pages and put into them again: what files of prompts hold.
//!
//! They are told as numbers, keys in the model's own order, so that neither pages nor a compiler's order of rows outlives
//! a run.

use crate::RuntimeError;
use crate::cpu::pages::PageLayout;
use crate::kv::{PageList, PageNames, PagePool, PrefixHash, find_prefix};
use crate::world::World;
use ingot_ir::kv::{KvGroupId, KvLayerId, Window};
use ingot_ir::plan::{Binding, Plan};
use std::ops::Range;

/// Pages that hold a text's keys and values, and that nobody else gets before they are given back.
#[derive(Debug)]
pub struct Kept {
    tokens: Vec<u32>,
    /// By KV group.
    pages: Vec<PageList>,
}

/// Keys and values of one layer, `[head][position][number]` each, of the positions that the layer's group keeps.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LayerKv {
    /// Keys.
    pub keys: Vec<f32>,
    /// Values.
    pub values: Vec<f32>,
}

impl Kept {
    /// The text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions whose keys and values a group has: all, or those of pages that are seen from the text's end on.
    pub fn n_positions(&self, group: KvGroupId, page_tokens: u32) -> usize {
        rows(self, group, page_tokens).iter().map(Range::len).sum()
    }
}

impl World {
    /// Takes the pages of a text that has been read. `None` if they are gone, or in use.
    pub fn keep(&mut self, tokens: &[u32]) -> Option<Kept> {
        let mut names = PageNames::default();
        let prefix = find_prefix(&self.pools, &self.windows, tokens, &mut names)?;
        let is_whole = prefix.n_tokens == tokens.len();
        let take = || prefix.take(&mut self.pools, &self.windows, tokens, &mut names);
        is_whole.then(|| Kept { tokens: tokens.to_vec(), pages: take() })
    }

    /// Pages for a text whose keys and values [`World::write_kept`] is to bring. `None` if too few are free.
    pub fn keep_anew(&mut self, tokens: &[u32]) -> Option<Kept> {
        let page_tokens = self.plan.page_tokens as usize;
        let n_places = tokens.len().div_ceil(page_tokens);
        let unseen = |window: &Window| window.unseen(tokens.len(), page_tokens);
        let fits = |(pool, window): (&PagePool, _)| n_places - unseen(window).len() <= pool.n_free() as usize;
        if !self.pools.iter().zip(&self.windows).all(fits) {
            return None;
        }
        let mut pages = vec![PageList::default(); self.pools.len()];
        for ((pool, window), list) in self.pools.iter_mut().zip(&self.windows).zip(&mut pages) {
            for place in 0..n_places {
                let wanted = !unseen(window).contains(&place);
                match wanted.then(|| pool.take()).flatten() {
                    Some(page) => list.push(page),
                    None => list.push_gone(),
                }
            }
        }
        Some(Kept { tokens: tokens.to_vec(), pages })
    }

    /// Gives pages back. What they hold can be found from now on.
    pub fn give_back(&mut self, kept: Kept) {
        let page_tokens = self.plan.page_tokens as usize;
        let mut before = PrefixHash::EMPTY;
        for (place, tokens) in kept.tokens.chunks(page_tokens).enumerate() {
            for (pool, list) in self.pools.iter_mut().zip(&kept.pages) {
                if let Some(page) = list.get(place).filter(|page| !pool.contents().knows(*page)) {
                    pool.record(page, before, tokens);
                }
            }
            before = before.then(tokens);
        }
        self.let_go(kept);
    }

    /// Gives pages back whose contents are worth nothing.
    pub fn let_go(&mut self, kept: Kept) {
        for (pool, list) in self.pools.iter_mut().zip(&kept.pages) {
            list.pages().rev().for_each(|page| pool.release(page));
        }
        self.cached.set(self.cached_bytes());
    }

    /// One layer's keys and values.
    ///
    /// # Errors
    /// A layer whose pages are not of that kind; those of the device.
    pub fn read_kept(&mut self, kept: &Kept, layer: KvLayerId) -> Result<LayerKv, RuntimeError> {
        let (layout, group) = (layout(&self.plan, layer)?, self.plan.kv.layers[layer].group);
        let pages: Vec<u32> = kept.pages[group.0 as usize].pages().collect();
        let words = self.backend.read_pages(layer, &pages)?;
        let order = order(&self.plan, layer);
        let rows = rows(kept, group, self.plan.page_tokens);
        let n_positions: usize = rows.iter().map(|rows| rows.len()).sum();
        let n_numbers = n_positions * layout.n_kv_heads * layout.head_dim;
        let mut kv = LayerKv { keys: vec![0.0; n_numbers], values: vec![0.0; n_numbers] };
        let mut page_rows = vec![0.0; self.plan.page_tokens as usize * layout.head_dim];
        let mut each = |is_v: bool, out: &mut [f32]| {
            for head in 0..layout.n_kv_heads {
                let mut at = head * n_positions;
                for (ix, rows) in rows.iter().enumerate() {
                    let first = layout.head_at(ix, is_v, head);
                    layout.read(&words[first..first + layout.head_words()], rows.len(), &mut page_rows);
                    for row in page_rows.chunks_exact(layout.head_dim).take(rows.len()) {
                        let out = &mut out[at * layout.head_dim..(at + 1) * layout.head_dim];
                        (0..layout.head_dim).for_each(|d| out[d] = row[if is_v { d } else { order.stored(d) }]);
                        at += 1;
                    }
                }
            }
        };
        each(false, &mut kv.keys);
        each(true, &mut kv.values);
        Ok(kv)
    }

    /// Brings one layer's keys and values into pages of [`World::keep_anew`].
    ///
    /// # Errors
    /// As [`World::read_kept`]; numbers of another count.
    pub fn write_kept(&mut self, kept: &Kept, layer: KvLayerId, kv: &LayerKv) -> Result<(), RuntimeError> {
        let (layout, group) = (layout(&self.plan, layer)?, self.plan.kv.layers[layer].group);
        let order = order(&self.plan, layer);
        let rows = rows(kept, group, self.plan.page_tokens);
        let n_positions: usize = rows.iter().map(|rows| rows.len()).sum();
        let n_numbers = n_positions * layout.n_kv_heads * layout.head_dim;
        if kv.keys.len() != n_numbers || kv.values.len() != n_numbers {
            let found = kv.keys.len();
            return Err(RuntimeError::KeptKv { layer, why: format!("{found} numbers a layer instead of {n_numbers}") });
        }
        let mut words = vec![0; layout.page_words()];
        let mut row = vec![0.0; layout.head_dim];
        let mut at = 0;
        for (rows, page) in rows.iter().zip(kept.pages[group.0 as usize].pages()) {
            for (is_v, numbers) in [(false, &kv.keys), (true, &kv.values)] {
                for head in 0..layout.n_kv_heads {
                    let first = layout.head_at(0, is_v, head);
                    for offset in 0..rows.len() {
                        let from = (head * n_positions + at + offset) * layout.head_dim;
                        let numbers = &numbers[from..from + layout.head_dim];
                        (0..layout.head_dim).for_each(|d| row[if is_v { d } else { order.stored(d) }] = numbers[d]);
                        layout.write(&mut words[first..first + layout.head_words()], offset, &row);
                    }
                }
            }
            at += rows.len();
            self.backend.write_page(layer, page, &words);
        }
        Ok(())
    }
}

/// Positions of each page that a group has.
fn rows(kept: &Kept, group: KvGroupId, page_tokens: u32) -> Vec<Range<u32>> {
    let n_tokens = kept.tokens.len() as u32;
    let list = &kept.pages[group.0 as usize];
    let of = |place: usize| {
        let first = place as u32 * page_tokens;
        first..(first + page_tokens).min(n_tokens)
    };
    (0..list.len()).filter(|place| list.get(*place).is_some()).map(of).collect()
}

fn layout(plan: &Plan, layer: KvLayerId) -> Result<PageLayout, RuntimeError> {
    let shape = plan.kv.shape(layer);
    if shape.latent || shape.k_dim != shape.v_dim {
        return Err(RuntimeError::KeptKv { layer, why: "keys and values are of unlike sizes".into() });
    }
    Ok(PageLayout { kv: plan.kv_type, n_kv_heads: shape.n_kv_heads as usize, head_dim: shape.k_dim as usize })
}

/// The order of a head's numbers in the pages of keys.
#[derive(Clone, Copy)]
struct Order {
    /// Numbers whose rotary pairs are neighbours, though the model has them half of this apart; 0 if they are not.
    n_paired: usize,
}

impl Order {
    /// Where number `d` of a key is.
    fn stored(self, d: usize) -> usize {
        let half = self.n_paired / 2;
        match d {
            _ if d >= self.n_paired => d,
            _ if d < half => 2 * d,
            _ => 2 * (d - half) + 1,
        }
    }
}

/// Whether the compiler has put rotary pairs side by side: kernels that write the layer rotate neighbours, and rows of
/// weights were reordered for it.
fn order(plan: &Plan, layer: KvLayerId) -> Order {
    let reordered = plan.weights.as_slice().iter().flat_map(|weight| &weight.segments).any(|of| of.order.is_some());
    let writes = plan
        .dispatches
        .as_slice()
        .iter()
        .filter(|dispatch| plan.operands_of(dispatch).iter().any(|bound| bound.binding == Binding::Kv(layer)));
    let paired = writes.filter_map(|dispatch| {
        let spec = &plan.kernels[dispatch.kernel].spec;
        (spec.u32("NEIGHBOURS") == Some(1)).then(|| spec.u32("ROT_DIM")).flatten()
    });
    Order { n_paired: paired.max().filter(|_| reordered).unwrap_or(0) as usize }
}
