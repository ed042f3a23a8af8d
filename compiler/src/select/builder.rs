//! State of the selection: which value lies where, and the nodes so far.

use super::grid_of;
use crate::CompileError;
use crate::pass::bucket::Bucket;
use crate::pass::group::base;
use crate::target::TargetProfile;
use ingot_ir::graph::{Graph, Op, Shape, ValueId};
use ingot_ir::handle::Column;
use ingot_ir::kernel::{KernelGraph, KernelNode, KernelSpec, Operand, Place, Rows, Slab, SlabId, Template};
use ingot_ir::size::Dim;

/// Where a value lies: columns `at ..` of rows of `stride` numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub place: Place,
    pub at: u32,
    pub stride: u32,
}

/// A weighted copy in half rows, and sums of the squares of what was copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Normed {
    pub rows: Place,
    pub squares: Place,
    /// Sums a row.
    pub n_parts: u32,
}

pub(super) struct Builder<'a> {
    pub graph: &'a Graph,
    pub target: &'a TargetProfile,
    pub bucket: &'a Bucket,
    /// Which values use a value.
    pub users: Column<ValueId, Vec<ValueId>>,
    kernels: KernelGraph,
    /// The concatenation that a value is a part of, and the part's first column.
    part_of: Column<ValueId, Option<(ValueId, u32)>>,
    slabs: Column<ValueId, Option<SlabId>>,
    /// Values that lie in half rows alone.
    half: Column<ValueId, bool>,
    /// Norms of which weighted half rows lie in memory.
    normed: Column<ValueId, Option<Normed>>,
    /// Tables of the products with experts that a route names, once there is one.
    orders: Column<ValueId, Option<Place>>,
    /// Products that were given tiles, before and after: a model's layers are alike.
    tiled: Vec<(KernelSpec, KernelSpec)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: &'a Graph, target: &'a TargetProfile, bucket: &'a Bucket) -> Self {
        let mut part_of = Column::new(graph.values.len(), None);
        for (id, value) in graph.values.iter() {
            let Op::Concat { parts } = &value.op else { continue };
            let mut at = 0;
            for part in parts {
                part_of[*part] = Some((id, at));
                at += graph.values[*part].shape.n_cols;
            }
        }
        let slabs = Column::new(graph.values.len(), None);
        let (half, normed) = (Column::new(graph.values.len(), false), Column::new(graph.values.len(), None));
        let orders = Column::new(graph.values.len(), None);
        Self {
            graph,
            target,
            bucket,
            users: graph.users(),
            kernels: KernelGraph::new(bucket.bounds),
            part_of,
            slabs,
            half,
            normed,
            orders,
            tiled: Vec::new(),
        }
    }

    /// A matrix product with the tiles that the target's table has for it.
    pub(super) fn tiled(&mut self, spec: KernelSpec) -> KernelSpec {
        if self.target.tiles.rows.is_empty() {
            return spec;
        }
        if let Some((_, tiled)) = self.tiled.iter().find(|(before, _)| *before == spec) {
            return tiled.clone();
        }
        let tiled = self.target.tiles.apply(&spec, self.target);
        self.tiled.push((spec, tiled.clone()));
        tiled
    }

    pub(super) fn cols(&self, v: ValueId) -> u32 {
        self.graph.values[v].shape.n_cols
    }

    /// Queries that an attention tile covers: one where every sequence has one token.
    pub(super) fn q_tile(&self) -> u32 {
        if self.bucket.is_decode() { 1 } else { self.target.prefill_q_tile }
    }

    /// A spec that runs over a value's rows.
    pub(super) fn spec(&self, template: Template, v: ValueId) -> KernelSpec {
        let rows = if self.graph.values[v].shape.rows == Dim::Rows { Rows::Wanted } else { Rows::Tokens };
        KernelSpec::new(template, rows)
    }

    /// Where a value that some group computes lies or will lie.
    pub(super) fn spot_for(&mut self, v: ValueId) -> Spot {
        let (whole, at) = match self.part_of[v] {
            Some((whole, at)) => {
                let outer = self.spot_for(whole);
                return Spot { at: outer.at + at, ..outer };
            }
            None => (v, 0),
        };
        let stride = self.cols(whole);
        if self.graph.outputs.first() == Some(&whole) {
            return Spot { place: Place::Logits, at, stride };
        }
        let slab = match self.slabs[whole] {
            Some(slab) => slab,
            None => {
                let shape = self.graph.values[whole].shape;
                let slab = self.kernels.slabs.push(Slab { holds: whole, shape, in_place_of: None });
                self.slabs[whole] = Some(slab);
                slab
            }
        };
        Spot { place: Place::Slab(slab), at, stride }
    }

    /// Where a value will lie in half rows, two numbers a word.
    pub(super) fn half_spot_for(&mut self, v: ValueId) -> Place {
        self.half[v] = true;
        let shape = Shape { n_cols: self.cols(v) / 2, ..self.graph.values[v].shape };
        let slab = self.kernels.slabs.push(Slab { holds: v, shape, in_place_of: None });
        self.slabs[v] = Some(slab);
        Place::Slab(slab)
    }

    /// Whether a value lies in half rows alone.
    pub(super) fn is_half(&self, v: ValueId) -> bool {
        self.half[v]
    }

    /// Where weighted half rows of a norm's input will lie, and `n_parts` sums of squares a row.
    pub(super) fn normed_for(&mut self, norm: ValueId, n_parts: u32) -> Normed {
        let (rows, squares) = (self.scratch(norm, self.cols(norm) / 2), self.scratch(norm, n_parts));
        let normed = Normed { rows, squares, n_parts };
        self.normed[norm] = Some(normed);
        normed
    }

    /// Where weighted half rows of a norm's input lie, if they do.
    pub(super) fn normed(&self, norm: ValueId) -> Option<Normed> {
        self.normed[norm]
    }

    /// Where the table of a route's products lies, if it was made.
    pub(super) fn order(&self, route: ValueId) -> Option<Place> {
        self.orders[route]
    }

    /// Where a table of `n_words` words of a route's products will lie.
    pub(super) fn order_for(&mut self, route: ValueId, n_words: u32) -> Place {
        // Memory is a number of words for each row of the largest step.
        let n_rows = self.bucket.bounds.get(self.graph.values[route].shape.rows).max(1);
        let place = self.scratch(route, n_words.div_ceil(n_rows));
        self.orders[route] = Some(place);
        place
    }

    /// Where a value lies, seen through slices.
    pub(super) fn spot_of(&mut self, v: ValueId) -> Spot {
        match self.graph.values[v].op {
            Op::Slice { x, at, .. } => {
                let outer = self.spot_of(x);
                Spot { at: outer.at + at, ..outer }
            }
            _ => self.spot_for(v),
        }
    }

    /// Where a value lies that a kernel reads in whole rows.
    pub(super) fn whole(&mut self, v: ValueId, reader: ValueId) -> Result<Place, CompileError> {
        debug_assert!(!self.half[v], "whoever reads half rows knows it");
        let spot = self.spot_of(v);
        if spot.at == 0 && spot.stride == self.cols(v) {
            return Ok(spot.place);
        }
        let why = format!("its operand {v} is a part of the rows of {}", base(self.graph, v));
        Err(CompileError::NoKernel { value: reader, op: self.graph.values[reader].op.name(), why })
    }

    /// Memory between two kernels of one group.
    pub(super) fn scratch(&mut self, holds: ValueId, n_cols: u32) -> Place {
        let shape = Shape { n_cols, ..self.graph.values[holds].shape };
        Place::Slab(self.kernels.slabs.push(Slab { holds, shape, in_place_of: None }))
    }

    /// Memory for `n_cols` numbers of each attention tile.
    pub(super) fn parts(&mut self, holds: ValueId, n_cols: u32) -> Place {
        let shape = Shape { rows: Dim::Tiles, n_cols };
        Place::Slab(self.kernels.slabs.push(Slab { holds, shape, in_place_of: None }))
    }

    pub(super) fn node(
        &mut self,
        spec: KernelSpec,
        operands: Vec<Operand>,
        origin: &[ValueId],
    ) -> Result<(), CompileError> {
        let grid = grid_of(&spec, self.target, &mut self.kernels)?;
        self.kernels.nodes.push(KernelNode { spec, operands, grid, origin: origin.to_vec() });
        Ok(())
    }

    pub(super) fn finish(self) -> KernelGraph {
        self.kernels
    }
}
