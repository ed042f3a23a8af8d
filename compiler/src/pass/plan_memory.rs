//! Assumes verified kernels. Guarantees: every slab has a range of a transient buffer that no other slab uses while it
//! lives, and no kernel finds one buffer on both its reading and its writing side (wgpu tracks a buffer as a whole).

use ingot_ir::handle::Column;
use ingot_ir::kernel::{Access, KernelGraph, Place, SlabId};
use ingot_ir::plan::{ArenaId, BINDING_ALIGN};
use std::cmp::Reverse;

/// A range of a transient buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The buffer.
    pub arena: ArenaId,
    /// First byte.
    pub offset: u64,
    /// Bytes, unpadded.
    pub n_bytes: u64,
}

/// Where every slab lies, and how large the buffers must be.
#[derive(Clone, PartialEq, Debug)]
pub struct MemoryPlan {
    /// Ranges by slab; in-place slabs have their root's.
    pub ranges: Column<SlabId, Option<Range>>,
    /// Bytes a buffer.
    pub arenas: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Life {
    first: u32,
    last: u32,
}

/// Runs the pass: places slabs in two orders and takes the smaller plan, the first on a tie.
pub fn run(kernels: &KernelGraph) -> MemoryPlan {
    let lives = lives(kernels);
    let roots: Vec<(SlabId, Life)> = kernels.slabs.ids().filter_map(|id| lives[id].map(|life| (id, life))).collect();
    // Large slabs first, so that small ones fill what they leave; or as they come, which suits long chains.
    let (mut by_size, mut by_time) = (roots.clone(), roots);
    by_size.sort_by_key(|(id, life)| (Reverse(n_bytes(kernels, *id)), life.first, *id));
    by_time.sort_by_key(|(id, life)| (life.first, *id));
    let (a, b) = (place(kernels, &lives, by_size), place(kernels, &lives, by_time));
    let total = |plan: &MemoryPlan| plan.arenas.iter().sum::<u64>();
    if total(&b) < total(&a) { b } else { a }
}

/// Places slabs one by one, each where the buffers grow least.
fn place(kernels: &KernelGraph, lives: &Column<SlabId, Option<Life>>, roots: Vec<(SlabId, Life)>) -> MemoryPlan {
    let mut ranges: Column<SlabId, Option<Range>> = Column::new(kernels.slabs.len(), None);
    let mut arenas: Vec<u64> = Vec::new();
    for (slab, life) in roots {
        let n_bytes = n_bytes(kernels, slab);
        let forbidden = opposite(kernels, slab, &ranges);
        arenas.push(0);
        let places =
            (0..).map(ArenaId).zip(&arenas).filter(|(arena, _)| !forbidden.contains(arena)).map(|(arena, size)| {
                let offset = lowest_gap(&ranges, lives, arena, life, n_bytes);
                let needed = (offset + n_bytes).next_multiple_of(BINDING_ALIGN).max(*size);
                (needed - size, arena, offset, needed)
            });
        let (_, arena, offset, needed) =
            places.min().unwrap_or_else(|| unreachable!("the new buffer is forbidden to none"));
        arenas[arena.0 as usize] = needed;
        arenas.retain(|size| *size > 0);
        ranges[slab] = Some(Range { arena, offset, n_bytes });
    }
    for id in kernels.slabs.ids() {
        let root = kernels.root(id);
        ranges[id] = ranges[root];
    }
    MemoryPlan { ranges, arenas }
}

/// Bytes of the greatest sum of slabs that live at one time: no plan can do with less.
pub fn lower_bound(kernels: &KernelGraph) -> u64 {
    let lives = lives(kernels);
    let live_bytes = |at: u32| {
        let alive = |id: &SlabId| lives[*id].is_some_and(|life| life.first <= at && at <= life.last);
        kernels.slabs.ids().filter(alive).map(|id| n_bytes(kernels, id)).sum::<u64>()
    };
    (0..kernels.nodes.len() as u32).map(live_bytes).max().unwrap_or(0)
}

fn n_bytes(kernels: &KernelGraph, slab: SlabId) -> u64 {
    let shape = kernels.slabs[slab].shape;
    u64::from(kernels.bucket.get(shape.rows).max(1)) * u64::from(shape.n_cols) * 4
}

/// From its first write to its last use, for slabs with memory of their own.
fn lives(kernels: &KernelGraph) -> Column<SlabId, Option<Life>> {
    let mut lives: Column<SlabId, Option<Life>> = Column::new(kernels.slabs.len(), None);
    for (at, node) in kernels.nodes.iter() {
        for operand in &node.operands {
            let Place::Slab(slab) = operand.place else { continue };
            let root = kernels.root(slab);
            let first = lives[root].map_or(at.0, |life| life.first);
            lives[root] = Some(Life { first, last: at.0 });
        }
    }
    lives
}

/// Buffers that a slab must not be in: those of slabs that a kernel uses the other way beside it.
fn opposite(kernels: &KernelGraph, slab: SlabId, ranges: &Column<SlabId, Option<Range>>) -> Vec<ArenaId> {
    let mut forbidden = Vec::new();
    for (_, node) in kernels.nodes.iter() {
        let access_of = |wanted: SlabId| -> Vec<Access> {
            let of = |place: Place| matches!(place, Place::Slab(s) if kernels.root(s) == wanted);
            node.operands.iter().filter(|operand| of(operand.place)).map(|operand| operand.access).collect()
        };
        let mine = access_of(slab);
        if mine.is_empty() {
            continue;
        }
        for operand in &node.operands {
            let Place::Slab(other) = operand.place else { continue };
            if let (Some(range), false) = (ranges[kernels.root(other)], mine.contains(&operand.access)) {
                forbidden.push(range.arena);
            }
        }
    }
    forbidden
}

/// The lowest aligned offset where a slab meets no other that lives at the same time.
fn lowest_gap(
    ranges: &Column<SlabId, Option<Range>>,
    lives: &Column<SlabId, Option<Life>>,
    arena: ArenaId,
    life: Life,
    n_bytes: u64,
) -> u64 {
    let mut taken: Vec<(u64, u64)> = (0..)
        .map(SlabId)
        .take(lives.len())
        .filter_map(|id| {
            let (range, other) = (ranges[id]?, lives[id]?);
            let meets = range.arena == arena && other.first <= life.last && life.first <= other.last;
            meets.then_some((range.offset, (range.offset + range.n_bytes).next_multiple_of(BINDING_ALIGN)))
        })
        .collect();
    taken.sort_unstable();
    let mut offset = 0;
    for (start, end) in taken {
        if offset + n_bytes <= start {
            break;
        }
        offset = offset.max(end);
    }
    offset
}
