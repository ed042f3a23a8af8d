//! Assumes a canonical graph. Guarantees: where the heads of an attention's queries and keys are normed before they are
//! rotated, both norms alike but for their weights, the weights are the two halves of one vector, queries' first.
//!
//! What rotates them then norms them too (see the `group` pass), and binds one weight more, not two.

use super::{push, rewrite};
use crate::pass::group::ropes;
use crate::target::{Fusion, TargetProfile};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::weight::{Layout, Source, Weight, WeightId};

/// Runs the pass.
pub fn run(graph: &Graph, target: &TargetProfile) -> Graph {
    if !target.takes(Fusion::HeadNorm) {
        return graph.clone();
    }
    let pairs: Vec<[HeadNorm; 2]> = graph.values.iter().filter_map(|(write, _)| head_norms(graph, write)).collect();
    let mut stacks: Vec<Option<WeightId>> = vec![None; pairs.len()];
    rewrite(graph, |new, op, old| {
        let Op::RmsNorm { x, eps, .. } = *op else { return None };
        let ix = pairs.iter().position(|pair| pair.iter().any(|norm| norm.value == old))?;
        let pair = &pairs[ix];
        let Weight { n_rows, format, .. } = graph.weights[pair[0].weight];
        let vector = |n_rows, source| Weight { n_rows, n_cols: 1, format, layout: Layout::Vector, source };
        let of = *stacks[ix].get_or_insert_with(|| {
            let parts = pair.iter().map(|norm| norm.weight).collect();
            new.weights.push(vector(2 * n_rows, Source::Stack(parts)))
        });
        let first = if pair[0].value == old { 0 } else { n_rows };
        let weight = new.weights.push(vector(n_rows, Source::Rows { of, first, count: n_rows }));
        Some(push(new, Op::RmsNorm { x, weight, eps }))
    })
}

/// The norm of an attention's queries or keys.
pub(super) struct HeadNorm {
    pub(super) value: ValueId,
    pub(super) weight: WeightId,
}

/// The norms of queries and keys, if a `kv_write` writes keys whose heads are normed as those of its queries.
pub(super) fn head_norms(graph: &Graph, write: ValueId) -> Option<[HeadNorm; 2]> {
    let (q, k) = ropes(graph, write).ok()?;
    let norm = |rope: ValueId| {
        let Op::Rope { x: value, head_dim, .. } = graph.values[rope].op else { return None };
        let Op::RmsNorm { weight, eps, .. } = graph.values[value].op else { return None };
        let users = graph.values.iter().filter(|(_, user)| user.op.operands().contains(&value)).count();
        let alone = users == 1 && !graph.outputs.contains(&value);
        (alone && graph.weights[weight].n_rows == head_dim).then_some((HeadNorm { value, weight }, eps))
    };
    let ((q, q_eps), (k, k_eps)) = (norm(q)?, norm(k)?);
    let alike = graph.weights[q.weight].format == graph.weights[k.weight].format;
    (alike && q_eps == k_eps && q.value != k.value).then_some([q, k])
}
