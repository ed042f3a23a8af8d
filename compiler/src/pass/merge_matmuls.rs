//! Assumes a canonical graph. Guarantees: linear layers of one input whose weights have one format, and which only
//! rotations, norms before rotations and cache writes read (q, k and v), are one linear layer and slices of it; a gate and an up projection whose results only meet in `silu(gate) * up` or
//! `gelu(gate) * up` are one linear layer with their rows in turn and `silu_mul_pairs` or `gelu_mul_pairs`. Layers of unlike formats merge in equal groups.

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
            let ((x, w_gate, b_gate), (x_up, w_up, b_up)) = (linear(graph, gate)?, linear(graph, up)?);
            let biases_alike = match (b_gate, b_up) {
                (None, None) => true,
                (Some(a), Some(b)) => alike(graph, a, b),
                _ => false,
            };
            let rows_alike = graph.weights[w_gate].n_rows == graph.weights[w_up].n_rows;
            let alone = only_user(a) && only_user(gate) && only_user(up);
            (x == x_up && alone && rows_alike && biases_alike && alike(graph, w_gate, w_up)).then_some((id, (gate, up)))
        })
        .collect();
    rewrite(graph, |new, op, old| {
        let (gate, up) = pairs.get(&old)?;
        // The mapped product's operands lead to the mapped linear layers.
        let Op::Mul { a, b: new_up } = *op else { return None };
        let activation = new.values[a].op.clone();
        let (Op::Silu { x: new_gate } | Op::Gelu { x: new_gate }) = activation else { return None };
        debug_assert!(linear(graph, *gate).is_some() && linear(graph, *up).is_some());
        let ((x, w_gate, b_gate), (_, w_up, b_up)) = (linear(new, new_gate)?, linear(new, new_up)?);
        let weight = join(new, &[w_gate, w_up], Source::Interleave(w_gate, w_up));
        let bias = b_gate.zip(b_up).map(|(a, b)| join(new, &[a, b], Source::Interleave(a, b)));
        let both = push(new, Op::Linear { x, weight, bias });
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
