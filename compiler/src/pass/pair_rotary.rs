//! Assumes queries and keys that come straight from linear layers. Guarantees: where rotated queries meet only rotated
//! keys in one attention, the rows of both layers are in an order in which the two numbers of a rotary pair are
//! neighbours, and the rotations say so. Scores are sums over a head's numbers, which keep their pairs of factors; the
//! cache then holds keys in that order, which is the plan's own affair: what is saved of a cache is put back in order.
//!
//! A product can then rotate what it has just computed, see the `group` pass. With a norm between product and rotation
//! (q/k norm) nothing is changed.

use super::{push, rewrite};
use crate::pass::group::ropes;
use crate::target::{Fusion, TargetProfile};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::weight::{RotaryPairs, Source, Weight, WeightId};

/// Runs the pass.
pub fn run(graph: &Graph, target: &TargetProfile) -> Graph {
    if !target.takes(Fusion::RopeKv) {
        return graph.clone();
    }
    let paired = paired(graph);
    let order_of = |v: ValueId| paired.iter().find(|(rope, _)| *rope == v).map(|(_, order)| *order);
    rewrite(graph, |new, op, old| match *op {
        Op::Linear { x, weight, bias } => {
            let (_, order) = paired.iter().find(|(rope, _)| operand(graph, *rope) == Some(old))?;
            let mut reorder = |of: WeightId| {
                let Weight { n_rows, n_cols, format, layout, .. } = new.weights[of];
                let source = Source::PairRows { of, order: *order };
                new.weights.push(Weight { n_rows, n_cols, format, layout, source })
            };
            let (weight, bias) = (reorder(weight), bias.map(&mut reorder));
            Some(push(new, Op::Linear { x, weight, bias }))
        }
        Op::Rope { x, freqs, n_heads, head_dim, rot_dim, scale, .. } => {
            order_of(old)?;
            Some(push(new, Op::Rope { x, freqs, n_heads, head_dim, rot_dim, scale, neighbours: true }))
        }
        _ => None,
    })
}

/// The rotations whose pairs become neighbours, with the order of their layers' rows.
fn paired(graph: &Graph) -> Vec<(ValueId, RotaryPairs)> {
    let users = graph.users();
    let order = |rope: ValueId| {
        let Op::Rope { x, head_dim, rot_dim, neighbours: false, .. } = graph.values[rope].op else { return None };
        let Op::Linear { weight, bias, .. } = graph.values[x].op else { return None };
        // A weight that others use too keeps its order.
        let is_own = |weight: &WeightId| {
            let uses = graph.values.iter().filter(|(_, value)| value.op.weights().contains(weight)).count();
            uses == 1 && matches!(graph.weights[*weight].source, Source::Tensor(_))
        };
        let alone = |v: ValueId| users[v].len() == 1 && !graph.outputs.contains(&v);
        let fits = alone(x) && alone(rope) && is_own(&weight) && bias.iter().all(is_own);
        fits.then_some((rope, RotaryPairs { head_dim, rot_dim }))
    };
    let writes = graph.values.iter().filter(|(_, value)| matches!(value.op, Op::KvWrite { .. }));
    let pairs = writes.filter_map(|(write, _)| {
        let (q, k) = ropes(graph, write).ok()?;
        Some([order(q)?, order(k)?])
    });
    pairs.flatten().collect()
}

fn operand(graph: &Graph, rope: ValueId) -> Option<ValueId> {
    match graph.values[rope].op {
        Op::Rope { x, .. } => Some(x),
        _ => None,
    }
}
