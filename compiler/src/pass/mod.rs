//! The passes, in the order in which `pipeline` runs them.

pub mod limit_kv;
pub mod canonicalize;
pub mod pair_rotary;
pub mod merge_matmuls;
pub mod stack_norms;
pub mod split_large;
pub mod assign_layout;
pub mod bucket;
pub mod drop_unused_rows;
pub mod group;
pub mod half_rows;
pub mod order;
pub mod alias;
pub mod plan_memory;

use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::handle::Column;
use ingot_ir::weight::{Source, Weight, WeightId};

/// Rebuilds a graph op by op. `rule` sees the new graph, the op with its operands already mapped, and the old value;
/// it may append values and returns what stands for the old one, or `None` to keep the op as it is.
///
/// Panics if a rule makes an op that does not verify: that is a fault of the pass.
pub(crate) fn rewrite(old: &Graph, mut rule: impl FnMut(&mut Graph, &Op, ValueId) -> Option<ValueId>) -> Graph {
    let mut new =
        Graph { name: old.name.clone(), weights: old.weights.clone(), kv: old.kv.clone(), ..Graph::default() };
    let mut map: Vec<ValueId> = Vec::with_capacity(old.values.len());
    for (id, value) in old.values.iter() {
        let op = value.op.clone().map_operands(|v| map[v.0 as usize]);
        let replaced = rule(&mut new, &op, id);
        map.push(replaced.unwrap_or_else(|| push(&mut new, op)));
    }
    new.outputs = old.outputs.iter().map(|v| map[v.0 as usize]).collect();
    prune(&new)
}

/// Appends an op that a pass knows to be right.
pub(crate) fn push(graph: &mut Graph, op: Op) -> ValueId {
    match graph.push(op) {
        Ok(id) => id,
        Err(error) => unreachable!("a pass made a wrong op: {error}"),
    }
}

/// Drops values that no output needs, and weights that no value needs. Cache writes that an attention reads are needed.
pub(crate) fn prune(old: &Graph) -> Graph {
    let mut live = Column::new(old.values.len(), false);
    old.outputs.iter().for_each(|&output| live[output] = true);
    let mut used = Column::new(old.weights.len(), false);
    for (id, value) in old.values.iter().rev() {
        if live[id] {
            value.op.operands().into_iter().for_each(|v| live[v] = true);
            value.op.weights().into_iter().for_each(|w| used[w] = true);
        }
    }
    for (id, weight) in old.weights.iter().rev() {
        if used[id] {
            sources(weight).into_iter().for_each(|w| used[w] = true);
        }
    }
    let mut new = Graph { name: old.name.clone(), kv: old.kv.clone(), ..Graph::default() };
    let mut weights: Vec<WeightId> = Vec::with_capacity(old.weights.len());
    for (id, weight) in old.weights.iter() {
        let kept = used[id].then(|| new.weights.push(map_sources(weight.clone(), |w| weights[w.0 as usize])));
        weights.push(kept.unwrap_or(WeightId(u32::MAX)));
    }
    let mut values: Vec<ValueId> = Vec::with_capacity(old.values.len());
    for (id, value) in old.values.iter() {
        let kept = live[id].then(|| {
            let op = value.op.clone().map_operands(|v| values[v.0 as usize]);
            push(&mut new, map_weights(op, |w| weights[w.0 as usize]))
        });
        values.push(kept.unwrap_or(ValueId(u32::MAX)));
    }
    new.outputs = old.outputs.iter().map(|v| values[v.0 as usize]).collect();
    new
}

/// The weights that a weight is made of.
pub(crate) fn sources(weight: &Weight) -> Vec<WeightId> {
    match &weight.source {
        Source::Tensor(_) | Source::Inline(_) => Vec::new(),
        Source::Rows { of, .. } => vec![*of],
        Source::Stack(parts) => parts.clone(),
        Source::Interleave(a, b) => vec![*a, *b],
        Source::OnePlus(of) => vec![*of],
        Source::PairRows { of, .. } => vec![*of],
    }
}

fn map_sources(weight: Weight, f: impl Fn(WeightId) -> WeightId) -> Weight {
    let source = match weight.source {
        Source::Rows { of, first, count } => Source::Rows { of: f(of), first, count },
        Source::Stack(parts) => Source::Stack(parts.into_iter().map(f).collect()),
        Source::Interleave(a, b) => Source::Interleave(f(a), f(b)),
        Source::OnePlus(of) => Source::OnePlus(f(of)),
        Source::PairRows { of, order } => Source::PairRows { of: f(of), order },
        other => other,
    };
    Weight { source, ..weight }
}

fn map_weights(op: Op, f: impl Fn(WeightId) -> WeightId) -> Op {
    match op {
        Op::Embed { parts } => Op::Embed { parts: parts.into_iter().map(f).collect() },
        Op::RmsNorm { x, weight, eps } => Op::RmsNorm { x, weight: f(weight), eps },
        Op::Linear { x, weight, bias } => Op::Linear { x, weight: f(weight), bias: bias.map(f) },
        Op::Rope { x, freqs, n_heads, head_dim, rot_dim, scale, neighbours } => {
            Op::Rope { x, freqs: f(freqs), n_heads, head_dim, rot_dim, scale, neighbours }
        }
        Op::MoeLinear { x, route, parts, n_experts } => {
            Op::MoeLinear { x, route, parts: parts.into_iter().map(f).collect(), n_experts }
        }
        other => other,
    }
}
