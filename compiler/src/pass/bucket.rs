//! The step sizes that a plan has variants for. A variant is compiled for upper bounds; a step takes the first that it fits.

use super::group::least_tiled;
use crate::Options;
use crate::target::TargetProfile;
use ingot_ir::graph::Graph;
use ingot_ir::plan::PART_TOKENS;
use ingot_ir::size::Dims;
use std::collections::BTreeSet;

/// A variant to be compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// Upper bounds of a step's sizes.
    pub bounds: Dims,
    /// Whether every token's logits are wanted, so that rows are tokens.
    pub all_rows: bool,
    /// Longest KV that it is for.
    pub max_kv: u32,
    /// Parts that attention may split a sequence's KV into.
    pub max_parts: u32,
}

impl Bucket {
    /// Whether attention tiles are of one query: every sequence has one token. (A chunk may hold as many sequences as tokens,
    /// but is taken where some have several.)
    pub fn is_decode(&self) -> bool {
        self.all_rows && self.bounds.tokens == self.bounds.sequences
    }
}

/// Attention tiles of a step of decoding sequences: enough to occupy the largest device, and no more to be combined.
const SPLIT_TILES: u32 = 32;

/// Longest KV that is not split: a second kernel takes as long as some rounds of the first.
const UNSPLIT_KV: u32 = 2 * PART_TOKENS;

/// The variants of a graph.
pub fn of(graph: &Graph, target: &TargetProfile, options: Options) -> Vec<Bucket> {
    run(target, options.max_batch, options.max_context, least_tiled(graph, target))
}

/// One token of each of 1, 2, 4 ... sequences, and the same with KV that is split; a chunk of as many tokens as matrix-vector
/// kernels take; where products could take matrix units, of as many as matrix-vector kernels take instead, and those that
/// have tiles of their own there (`unit_chunks`); where products are sorted by expert from `tiled` tokens on, a chunk of one
/// fewer; a long one. Sizes between are steps of the next larger variant: grids follow the step. Every variant's kernels are
/// the same but for the rows that a matrix product takes at once and the parts of KV, so that variants share pipelines.
pub fn run(target: &TargetProfile, max_batch: u32, max_context: u32, tiled: Option<u32>) -> Vec<Bucket> {
    let batch = max_batch.max(1).next_power_of_two();
    let sizes = std::iter::successors(Some(1u32), |n| n.checked_mul(2)).take_while(|n| *n <= batch);
    let decode = |n: u32| {
        let parts = (SPLIT_TILES / n).min(max_context.div_ceil(PART_TOKENS)).max(1);
        let splits = target.splits_kv() && parts > 1 && max_context > UNSPLIT_KV;
        let bucket = |max_parts: u32, max_kv: u32| Bucket {
            bounds: Dims { tokens: n, sequences: n, rows: n, tiles: n * max_parts, filtered: n },
            all_rows: true,
            max_kv,
            max_parts,
        };
        let whole = bucket(1, if splits { UNSPLIT_KV } else { u32::MAX });
        std::iter::once(whole).chain(splits.then(|| bucket(parts, u32::MAX)))
    };
    let chunk = |tokens: u32| {
        let sequences = max_batch.clamp(1, tokens);
        let tiles = tokens.div_ceil(target.prefill_q_tile) + sequences;
        let rows = target.max_rows.max(batch).min(tokens);
        let bounds = Dims { tokens, sequences, rows, tiles, filtered: rows };
        Bucket { bounds, all_rows: false, max_kv: u32::MAX, max_parts: 1 }
    };
    let (few, long) = (target.few_rows(), target.prefill_tokens.max(batch));
    let before_units = target.has_matrix_units().then(|| target.rows_before_units());
    let untiled = tiled.map(|tokens| tokens.saturating_sub(1)).filter(|tokens| *tokens > before_units.unwrap_or(few));
    let mut chunks: BTreeSet<u32> = [Some(few), before_units, untiled].into_iter().flatten().collect();
    chunks.extend(before_units.map_or(&[][..], |_| target.unit_chunks));
    let mut buckets: Vec<Bucket> = sizes.flat_map(decode).collect();
    buckets.extend(chunks.into_iter().filter(|tokens| (2..long).contains(tokens)).map(chunk));
    buckets.push(chunk(long));
    buckets
}
