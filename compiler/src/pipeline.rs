//! THE list of passes, in order.

use crate::pass::bucket::Bucket;
use crate::pass::{self, plan_memory::MemoryPlan};
use crate::select;
use crate::target::TargetProfile;
use crate::{CompileError, link};
use ingot_ir::IrError;
use ingot_ir::graph::Graph;
use ingot_ir::handle::Arena;
use ingot_ir::kernel::{KernelGraph, KernelSpec, Place};
use ingot_ir::memory::{Bytes, MemoryTable, counted};
use ingot_ir::plan::{
    ArenaId, Binding, BlobId, Bound, Dispatch, PLAN_VERSION, PipelineId, Plan, PlanKernel, PlanWeight, Segment, Variant,
};
use ingot_ir::weight::{Source, WeightId};
use std::collections::BTreeMap;

/// What a plan is shaped by besides model and target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Longest sequence in tokens.
    pub max_context: u32,
    /// Sequences at one time.
    pub max_batch: u32,
    /// Bytes that the loaded plan may take; `None` does not ask.
    pub memory_budget: Option<u64>,
}

impl Options {
    /// One sequence of up to `max_context` tokens, whatever it takes.
    pub const fn new(max_context: u32) -> Self {
        Self { max_context, max_batch: 1, memory_budget: None }
    }
}

/// A place in the pipeline to stop at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// After a pass on the graph: its name.
    Graph(&'static str),
    /// After a pass on the kernels of every bucket: its name.
    Kernels(&'static str),
    /// The plan.
    Plan,
}

/// Every stage in order.
pub const STAGES: &[Stage] = &[
    Stage::Graph("lower"),
    Stage::Graph("canonicalize"),
    Stage::Graph("pair_rotary"),
    Stage::Graph("merge_matmuls"),
    Stage::Graph("stack_norms"),
    Stage::Graph("split_large"),
    Stage::Graph("assign_layout"),
    Stage::Graph("drop_unused_rows"),
    Stage::Kernels("select"),
    Stage::Kernels("alias"),
    Stage::Plan,
];

/// A graph pass: its name and itself.
type GraphPass = (&'static str, fn(&Graph, &TargetProfile) -> Result<Graph, CompileError>);

/// Passes that see the whole graph, before buckets.
pub const GRAPH_PASSES: &[GraphPass] = &[
    ("canonicalize", |g, t| Ok(pass::canonicalize::run(g, t))),
    ("pair_rotary", |g, t| Ok(pass::pair_rotary::run(g, t))),
    ("merge_matmuls", |g, t| Ok(pass::merge_matmuls::run(g, t))),
    ("stack_norms", |g, t| Ok(pass::stack_norms::run(g, t))),
    ("split_large", |g, t| pass::split_large::run(g, t)),
    ("assign_layout", |g, t| Ok(pass::assign_layout::run(g, t))),
];

/// Runs the graph passes up to and including `last`.
pub fn graph_passes(graph: &Graph, target: &TargetProfile, last: &str) -> Result<Graph, CompileError> {
    for (_, group) in graph.kv.groups.iter() {
        let refused = [group.shape.k_dim, group.shape.v_dim].into_iter().find_map(|dim| target.kv_type.refuses(dim));
        refused.map_or(Ok(()), |why| Err(CompileError::KvType { why }))?;
    }
    let mut graph = graph.clone();
    for (name, pass) in GRAPH_PASSES {
        graph = pass(&graph, target)?;
        checked(name, graph.verify())?;
        if *name == last {
            break;
        }
    }
    Ok(graph)
}

/// The graph of one bucket.
pub fn bucket_graph(graph: &Graph, target: &TargetProfile, bucket: &Bucket) -> Result<Graph, CompileError> {
    let graph = if bucket.all_rows { graph.clone() } else { pass::drop_unused_rows::run(graph, target) };
    checked("drop_unused_rows", graph.verify())?;
    Ok(graph)
}

/// The kernels of one bucket's graph, before `alias`.
pub fn bucket_kernels(
    graph: &Graph,
    target: &TargetProfile,
    bucket: &Bucket,
    options: Options,
) -> Result<KernelGraph, CompileError> {
    let groups = pass::group::run(graph, target, &bucket.bounds)?;
    let groups = pass::half_rows::run(graph, target, groups);
    let groups = pass::order::run(graph, groups);
    let kernels = select::run(graph, &groups, target, bucket, options.max_context)?;
    checked("select", kernels.verify())?;
    Ok(kernels)
}

/// Compiles a model for a target.
pub fn compile(graph: &Graph, target: &TargetProfile, options: Options) -> Result<Plan, CompileError> {
    checked("lower", graph.verify())?;
    let graph = graph_passes(graph, target, "assign_layout")?;
    let mut assembler = Assembler::new(&graph, target, options);
    for bucket in pass::bucket::of(&graph, target, options) {
        let rows = bucket_graph(&graph, target, &bucket)?;
        let kernels = pass::alias::run(&bucket_kernels(&rows, target, &bucket, options)?);
        checked("alias", kernels.verify())?;
        let memory = pass::plan_memory::run(&kernels, target);
        assembler.add(&bucket, &rows, &kernels, &memory)?;
    }
    let plan = assembler.plan;
    checked("plan", plan.verify())?;
    let table = MemoryTable::new(&plan, options.max_batch, &plan.pages_for(options.max_batch, plan.max_context));
    match options.memory_budget {
        Some(budget) if table.total() > budget => Err(CompileError::OverBudget { table, budget: Bytes(budget) }),
        _ => Ok(plan),
    }
}

/// The text of the representation after a stage.
pub fn explain(graph: &Graph, target: &TargetProfile, options: Options, stage: Stage) -> Result<String, CompileError> {
    use std::fmt::Write;
    let mut text = String::new();
    match stage {
        Stage::Graph("lower") => return Ok(graph.to_string()),
        Stage::Graph("drop_unused_rows") | Stage::Kernels(_) => {
            let graph = graph_passes(graph, target, "assign_layout")?;
            for bucket in pass::bucket::of(&graph, target, options) {
                let rows = bucket_graph(&graph, target, &bucket)?;
                if matches!(stage, Stage::Graph(_)) {
                    let tokens = counted(bucket.bounds.tokens.into(), "token");
                    let _ = writeln!(text, "# steps of up to {tokens}\n{rows}");
                    continue;
                }
                let kernels = bucket_kernels(&rows, target, &bucket, options)?;
                let kernels = if stage == Stage::Kernels("alias") { pass::alias::run(&kernels) } else { kernels };
                let _ = writeln!(text, "{kernels}");
            }
        }
        Stage::Graph(last) => return Ok(graph_passes(graph, target, last)?.to_string()),
        Stage::Plan => return Ok(compile(graph, target, options)?.to_string()),
    }
    Ok(text)
}

fn checked(pass: &'static str, result: Result<(), IrError>) -> Result<(), CompileError> {
    result.map_err(|source| CompileError::Broken { pass, source })
}

/// Joins the buckets' kernels into one plan: equal kernels once, weights once, buffers as large as the largest bucket needs.
struct Assembler<'a> {
    target: &'a TargetProfile,
    plan: Plan,
    blobs: BTreeMap<String, BlobId>,
    pipelines: Vec<KernelSpec>,
}

impl<'a> Assembler<'a> {
    fn new(graph: &'a Graph, target: &'a TargetProfile, options: Options) -> Self {
        let n_vocab = graph.outputs.first().map_or(0, |logits| graph.values[*logits].shape.n_cols);
        let plan = Plan {
            version: PLAN_VERSION,
            model: graph.name.clone(),
            target: target.name.clone(),
            is_cpu: target.is_cpu,
            tiles: target.tiles.id(),
            n_vocab,
            max_context: options.max_context,
            max_batch: options.max_batch,
            page_tokens: target.page_tokens,
            kv_type: target.kv_type,
            kv: graph.kv.clone(),
            max_binding_bytes: target.max_binding_bytes,
            exprs: Default::default(),
            arenas: Arena::new(),
            weights: Arena::new(),
            kernels: Arena::new(),
            variants: Arena::new(),
            dispatches: Arena::new(),
            operands: Vec::new(),
        };
        Self { target, plan, blobs: BTreeMap::new(), pipelines: Vec::new() }
    }

    fn add(
        &mut self,
        bucket: &Bucket,
        graph: &Graph,
        kernels: &KernelGraph,
        memory: &MemoryPlan,
    ) -> Result<(), CompileError> {
        for (ix, bytes) in memory.arenas.iter().enumerate() {
            if ix < self.plan.arenas.len() {
                let arena = ArenaId(ix as u32);
                self.plan.arenas[arena] = self.plan.arenas[arena].max(*bytes);
            } else {
                self.plan.arenas.push(*bytes);
            }
        }
        let q_tile = if bucket.is_decode() { 1 } else { self.target.prefill_q_tile };
        let first = self.plan.dispatches.len() as u32;
        let n_dispatches = kernels.nodes.len() as u32;
        self.plan.variants.push(Variant {
            bounds: bucket.bounds,
            q_tile,
            all_rows: bucket.all_rows,
            max_kv: bucket.max_kv,
            max_parts: bucket.max_parts,
            first,
            n_dispatches,
        });
        for node in kernels.nodes.as_slice() {
            let first_operand = self.plan.operands.len() as u32;
            for operand in &node.operands {
                let binding = match operand.place {
                    Place::Step => Binding::Step,
                    Place::Sampled => Binding::Sampled,
                    Place::Columns => Binding::Columns,
                    Place::Logits => Binding::Logits,
                    Place::Kv(layer) => Binding::Kv(layer),
                    Place::PageTable(group) => Binding::PageTable(group),
                    Place::Weight(weight) => Binding::Weight(self.blob(graph, weight)),
                    Place::Slab(slab) => {
                        let range =
                            memory.ranges[slab].unwrap_or_else(|| unreachable!("{slab} is used, so it has memory"));
                        if range.n_bytes > self.target.max_binding_bytes {
                            return Err(CompileError::TooLarge {
                                what: format!("the activation {slab} of {} tokens", bucket.bounds.tokens),
                                needed: range.n_bytes,
                                limit: self.target.max_binding_bytes,
                                target: self.target.name.clone(),
                            });
                        }
                        Binding::Arena { arena: range.arena, offset: range.offset, n_bytes: range.n_bytes }
                    }
                };
                self.plan.operands.push(Bound { role: operand.role, access: operand.access, binding });
            }
            let kernel = self.pipeline(&node.spec)?;
            let grid = self.plan.exprs.parse(&kernels.exprs.show(node.grid).to_string());
            let grid = grid.unwrap_or_else(|why| unreachable!("an expression's own text reads back: {why}"));
            let n_operands = node.operands.len() as u32;
            self.plan.dispatches.push(Dispatch {
                kernel,
                grid,
                first_operand,
                n_operands,
                origin: node.origin.clone(),
            });
        }
        Ok(())
    }

    fn pipeline(&mut self, spec: &KernelSpec) -> Result<PipelineId, CompileError> {
        if let Some(ix) = self.pipelines.iter().position(|other| other == spec) {
            return Ok(PipelineId(ix as u32));
        }
        self.pipelines.push(spec.clone());
        let kernel = if self.target.is_cpu {
            PlanKernel { spec: spec.clone(), slots: Vec::new(), workgroup: [1; 3], wgsl: String::new() }
        } else {
            link::link(spec, self.target)?
        };
        Ok(self.plan.kernels.push(kernel))
    }

    /// The plan's weight for a graph's, once however many buckets use it.
    fn blob(&mut self, graph: &Graph, id: WeightId) -> BlobId {
        let blob = plan_weight(graph, id);
        let key = format!("{:?}{:?}{}{}{:?}", blob.segments, blob.layout, blob.interleaved, blob.format, blob.inline);
        *self.blobs.entry(key).or_insert_with(|| self.plan.weights.push(blob))
    }
}

/// A weight as runs of checkpoint rows.
fn plan_weight(graph: &Graph, id: WeightId) -> PlanWeight {
    let weight = &graph.weights[id];
    let inline = match &weight.source {
        Source::Inline(numbers) => numbers.clone(),
        _ => Vec::new(),
    };
    let (segments, interleaved) = segments(graph, id, 0, weight.n_rows);
    PlanWeight {
        n_rows: weight.n_rows,
        n_cols: weight.n_cols,
        format: weight.format,
        layout: weight.layout,
        segments,
        interleaved,
        inline,
    }
}

/// Rows `first .. first + count` of a weight, as runs of checkpoint rows, and whether these come in pairs that alternate.
fn segments(graph: &Graph, id: WeightId, first: u32, count: u32) -> (Vec<Segment>, bool) {
    match &graph.weights[id].source {
        Source::Inline(_) => (Vec::new(), false),
        Source::Tensor(tensor) => (
            vec![Segment { tensor: tensor.clone(), first_row: first, n_rows: count, order: None, plus_one: false }],
            false,
        ),
        Source::PairRows { of, order } => {
            let (mut runs, interleaved) = segments(graph, *of, first, count);
            runs.iter_mut().for_each(|run| run.order = Some(*order));
            (runs, interleaved)
        }
        Source::OnePlus(of) => {
            let (mut runs, interleaved) = segments(graph, *of, first, count);
            runs.iter_mut().for_each(|run| run.plus_one = true);
            (runs, interleaved)
        }
        Source::Rows { of, first: at, .. } => segments(graph, *of, at + first, count),
        Source::Stack(parts) => {
            let (mut runs, mut in_turn, mut at) = (Vec::new(), None, 0);
            for part in parts {
                let n_rows = graph.weights[*part].n_rows;
                let (from, to) = (first.max(at), (first + count).min(at + n_rows));
                if from < to {
                    let (mut inner, interleaved) = segments(graph, *part, from - at, to - from);
                    assert!(*in_turn.get_or_insert(interleaved) == interleaved, "a stack's parts are alike");
                    runs.append(&mut inner);
                }
                at += n_rows;
            }
            (runs, in_turn == Some(true))
        }
        Source::Interleave(a, b) => {
            assert!(first.is_multiple_of(2) && count.is_multiple_of(2), "row pairs stay together");
            let (first_runs, _) = segments(graph, *a, first / 2, count / 2);
            let (second_runs, _) = segments(graph, *b, first / 2, count / 2);
            (in_pairs(first_runs, second_runs), true)
        }
    }
}

/// Two lists of runs of as many rows, as pairs of equal height: a run ends where one of the other list does.
fn in_pairs(first: Vec<Segment>, second: Vec<Segment>) -> Vec<Segment> {
    let (mut first, mut second) = (first.into_iter().peekable(), second.into_iter().peekable());
    let mut pairs = Vec::new();
    while let (Some(a), Some(b)) = (first.peek_mut(), second.peek_mut()) {
        let n_rows = a.n_rows.min(b.n_rows);
        pairs.extend([take_rows(a, n_rows), take_rows(b, n_rows)]);
        first.next_if(|run| run.n_rows == 0);
        second.next_if(|run| run.n_rows == 0);
    }
    pairs
}

/// Takes the first rows of a run.
fn take_rows(run: &mut Segment, n_rows: u32) -> Segment {
    let taken = Segment { n_rows, ..run.clone() };
    run.first_row += n_rows;
    run.n_rows -= n_rows;
    taken
}
