//! Assumes a canonical graph. Guarantees: linear layers of one input whose weights have one format, and which only
//! rotations, norms before rotations and cache writes read (q, k and v), are one linear layer and slices of it; a gate and an up
//! projection whose results only meet in `silu(gate) * up` or `gelu(gate) * up` are one linear layer with their rows in turn
//! and `silu_mul_pairs` or `gelu_mul_pairs`, those of experts too. Layers of unlike formats merge in equal groups.

use super::{prune, push, rewrite};
use crate::target::{Fusion, TargetProfile};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::weight::{Layout, Source, Weight, WeightId};
use std::collections::BTreeMap;

/// Runs the pass.
pub fn run(graph: &Graph, target: &TargetProfile) -> Graph {
    let paired = if target.takes(Fusion::GatePairs) { pair_gates(graph) } else { graph.clone() };
    stack_siblings(&paired)
}

/// A product that may be a gate or an up projection: its operands but for the matrix, the matrix, the bias.
struct Half {
    x: ValueId,
    /// Route and number of the experts.
    experts: Option<(ValueId, u32)>,
    weight: WeightId,
    bias: Option<WeightId>,
}

fn half(graph: &Graph, v: ValueId) -> Option<Half> {
    match graph.values[v].op {
        Op::Linear { x, weight, bias } => Some(Half { x, experts: None, weight, bias }),
        Op::MoeLinear { x, route, ref parts, n_experts } => match parts[..] {
            [weight] => Some(Half { x, experts: Some((route, n_experts)), weight, bias: None }),
            _ => None,
        },
        _ => None,
    }
}

fn linear(graph: &Graph, v: ValueId) -> Option<(ValueId, WeightId, Option<WeightId>)> {
    match graph.values[v].op {
        Op::Linear { x, weight, bias } => Some((x, weight, bias)),
        _ => None,
    }
}

/// Whether two weights can be one matrix.
fn alike(graph: &Graph, a: WeightId, b: WeightId) -> bool {
    let (a, b) = (&graph.weights[a], &graph.weights[b]);
    a.format == b.format && a.n_cols == b.n_cols && a.layout == b.layout
}

fn join(graph: &mut Graph, parts: &[WeightId], source: Source) -> WeightId {
    let n_rows = parts.iter().map(|w| graph.weights[*w].n_rows).sum();
    let Weight { n_cols, format, .. } = graph.weights[parts[0]];
    graph.weights.push(Weight { n_rows, n_cols, format, layout: Layout::Unassigned, source })
}

fn pair_gates(graph: &Graph) -> Graph {
    let users = graph.users();
    let only_user = |v: ValueId| users[v].len() == 1 && !graph.outputs.contains(&v);
    let pairs: BTreeMap<ValueId, (ValueId, ValueId)> = graph
        .values
        .iter()
        .filter_map(|(id, value)| {
            let Op::Mul { a, b: up } = value.op else { return None };
            let (Op::Silu { x: gate } | Op::Gelu { x: gate }) = graph.values[a].op else { return None };
            let (g, u) = (half(graph, gate)?, half(graph, up)?);
            let biases_alike = match (g.bias, u.bias) {
                (None, None) => true,
                (Some(a), Some(b)) => alike(graph, a, b),
                _ => false,
            };
            let rows_alike = graph.weights[g.weight].n_rows == graph.weights[u.weight].n_rows;
            let alone = only_user(a) && only_user(gate) && only_user(up);
            let inputs_alike = g.x == u.x && g.experts == u.experts;
            let fits = inputs_alike && alone && rows_alike && biases_alike && alike(graph, g.weight, u.weight);
            fits.then_some((id, (gate, up)))
        })
        .collect();
    rewrite(graph, |new, op, old| {
        let (gate, up) = pairs.get(&old)?;
        // The mapped product's operands lead to the mapped linear layers.
        let Op::Mul { a, b: new_up } = *op else { return None };
        let activation = new.values[a].op.clone();
        let (Op::Silu { x: new_gate } | Op::Gelu { x: new_gate }) = activation else { return None };
        debug_assert!(half(graph, *gate).is_some() && half(graph, *up).is_some());
        let (g, u) = (half(new, new_gate)?, half(new, new_up)?);
        let weight = join(new, &[g.weight, u.weight], Source::Interleave(g.weight, u.weight));
        let bias = g.bias.zip(u.bias).map(|(a, b)| join(new, &[a, b], Source::Interleave(a, b)));
        let both = match g.experts {
            Some((route, n_experts)) => Op::MoeLinear { x: g.x, route, parts: vec![weight], n_experts },
            None => Op::Linear { x: g.x, weight, bias },
        };
        let both = push(new, both);
        let is_gelu = matches!(activation, Op::Gelu { .. });
        Some(push(new, if is_gelu { Op::GeluMulPairs { x: both } } else { Op::SiluMulPairs { x: both } }))
    })
}

fn stack_siblings(graph: &Graph) -> Graph {
    // Siblings by (input, has a bias), then by likeness; in order of appearance.
    let users = graph.users();
    // Only norms, the rotation and the cache write find their operands within wider rows.
    let rotates = |user: &ValueId| matches!(graph.values[*user].op, Op::Rope { .. });
    let takes_part = |user: &ValueId| match graph.values[*user].op {
        Op::Rope { .. } | Op::KvWrite { .. } => true,
        Op::RmsNorm { .. } => users[*user].iter().all(rotates),
        _ => false,
    };
    let mut sets: Vec<Vec<ValueId>> = Vec::new();
    for (id, _) in graph.values.iter() {
        let Some((x, weight, bias)) = linear(graph, id) else { continue };
        if graph.outputs.contains(&id) || !users[id].iter().all(takes_part) {
            continue;
        }
        let found = sets.iter_mut().find(|set| {
            linear(graph, set[0]).is_some_and(|(x0, w0, b0)| {
                let biases = match (b0, bias) {
                    (None, None) => true,
                    (Some(a), Some(b)) => alike(graph, a, b),
                    _ => false,
                };
                x0 == x && biases && alike(graph, w0, weight)
            })
        });
        match found {
            Some(set) => set.push(id),
            None => sets.push(vec![id]),
        }
    }
    sets.retain(|set| set.len() > 1);
    let mut merged: Vec<Option<ValueId>> = vec![None; sets.len()];
    let new = rewrite(graph, |new, op, old| {
        let set_ix = sets.iter().position(|set| set.contains(&old))?;
        let set = &sets[set_ix];
        let Op::Linear { x, .. } = *op else { return None };
        let parts: Vec<_> = set.iter().filter_map(|v| linear(graph, *v)).collect();
        let both = *merged[set_ix].get_or_insert_with(|| {
            let weights: Vec<_> = parts.iter().map(|(_, w, _)| *w).collect();
            let biases: Vec<_> = parts.iter().filter_map(|(_, _, b)| *b).collect();
            let weight = join(new, &weights, Source::Stack(weights.clone()));
            let bias = (!biases.is_empty()).then(|| join(new, &biases, Source::Stack(biases.clone())));
            push(new, Op::Linear { x, weight, bias })
        });
        let place = set.iter().position(|v| *v == old)?;
        let n_rows = |ix: usize| graph.weights[parts[ix].1].n_rows;
        let at = (0..place).map(n_rows).sum();
        Some(push(new, Op::Slice { x: both, at, n_cols: n_rows(place) }))
    });
    prune(&new)
}
