//! Assumes verified kernels. Guarantees: every slab has a range of a transient buffer that no other slab uses while it
//! lives, and no kernel finds one buffer on both its reading and its writing side (wgpu tracks a buffer as a whole).

use ingot_ir::handle::Column;
use ingot_ir::kernel::{Access, KernelGraph, Place, SlabId};
use ingot_ir::plan::{ArenaId, BINDING_ALIGN};

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

/// Runs the pass.
pub fn run(kernels: &KernelGraph) -> MemoryPlan {
    let lives = lives(kernels);
    let mut ranges: Column<SlabId, Option<Range>> = Column::new(kernels.slabs.len(), None);
    let mut arenas: Vec<u64> = Vec::new();
    // In order of first use, so that early slabs lie low and later ones fill what they leave.
    let mut roots: Vec<(SlabId, Life)> = kernels.slabs.ids().filter_map(|id| lives[id].map(|life| (id, life))).collect();
    roots.sort_by_key(|(id, life)| (life.first, *id));
    for (slab, life) in roots {
        let n_bytes = n_bytes(kernels, slab);
        let forbidden = opposite(kernels, slab, &ranges);
        let arena = (0..).map(ArenaId).find(|arena| !forbidden.contains(arena)).unwrap_or(ArenaId(0));
        let offset = lowest_gap(&ranges, &lives, arena, life, n_bytes);
        let ix = arena.0 as usize;
        if arenas.len() <= ix {
            arenas.resize(ix + 1, 0);
        }
        arenas[ix] = arenas[ix].max((offset + n_bytes).next_multiple_of(BINDING_ALIGN));
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
fn lowest_gap(ranges: &Column<SlabId, Option<Range>>, lives: &Column<SlabId, Option<Life>>, arena: ArenaId, life: Life, n_bytes: u64) -> u64 {
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

