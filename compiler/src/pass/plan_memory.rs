//! Assumes verified kernels. Guarantees: every slab has a range of a transient buffer that no other slab uses while it
//! lives, and on a GPU no kernel finds one buffer on both its reading and its writing side (wgpu tracks a buffer as a
//! whole; the CPU runtime only needs the ranges apart).

use crate::target::TargetProfile;
use ingot_ir::handle::Column;
use ingot_ir::kernel::{KernelGraph, Place, SlabId};
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
pub fn run(kernels: &KernelGraph, target: &TargetProfile) -> MemoryPlan {
    let lives = lives(kernels);
    let opposite = if target.is_cpu { Column::new(kernels.slabs.len(), Vec::new()) } else { opposite(kernels) };
    let roots: Vec<(SlabId, Life)> = kernels.slabs.ids().filter_map(|id| lives[id].map(|life| (id, life))).collect();
    // Large slabs first, so that small ones fill what they leave; or as they come, which suits long chains.
    let (mut by_size, mut by_time) = (roots.clone(), roots);
    by_size.sort_by_key(|(id, life)| (Reverse(n_bytes(kernels, *id)), life.first, *id));
    by_time.sort_by_key(|(id, life)| (life.first, *id));
    let (a, b) = (place(kernels, &lives, &opposite, by_size), place(kernels, &lives, &opposite, by_time));
    let total = |plan: &MemoryPlan| plan.arenas.iter().sum::<u64>();
    if total(&b) < total(&a) { b } else { a }
}

/// Places slabs one by one, each where the buffers grow least.
fn place(
    kernels: &KernelGraph,
    lives: &Column<SlabId, Option<Life>>,
    opposite: &Column<SlabId, Vec<SlabId>>,
    roots: Vec<(SlabId, Life)>,
) -> MemoryPlan {
    let mut ranges: Column<SlabId, Option<Range>> = Column::new(kernels.slabs.len(), None);
    let mut arenas: Vec<u64> = Vec::new();
    for (slab, life) in roots {
        let n_bytes = n_bytes(kernels, slab);
        let forbidden: Vec<ArenaId> =
            opposite[slab].iter().filter_map(|other| ranges[*other]).map(|range| range.arena).collect();
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

/// The slabs that some kernel uses the other way beside a slab, roots all: they must be in other buffers.
fn opposite(kernels: &KernelGraph) -> Column<SlabId, Vec<SlabId>> {
    let mut opposite: Column<SlabId, Vec<SlabId>> = Column::new(kernels.slabs.len(), Vec::new());
    for (_, node) in kernels.nodes.iter() {
        let slabs = || {
            node.operands.iter().filter_map(|operand| match operand.place {
                Place::Slab(slab) => Some((kernels.root(slab), operand.access)),
                _ => None,
            })
        };
        for (slab, access) in slabs() {
            opposite[slab].extend(slabs().filter(|(_, other)| *other != access).map(|(other, _)| other));
        }
    }
    opposite
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
