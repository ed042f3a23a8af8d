//! Assumes groups without cycles. Guarantees: a group comes after those whose results it reads; else groups keep the
//! graph's order, so that a value's readers stand close to it.

use super::group::{Group, inputs};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::handle::Column;

/// Runs the pass.
pub fn run(graph: &Graph, groups: Vec<Group>) -> Vec<Group> {
    let mut maker: Column<ValueId, Option<usize>> = Column::new(graph.values.len(), None);
    for (ix, group) in groups.iter().enumerate() {
        group.members.iter().for_each(|member| maker[*member] = maker[*member].or(Some(ix)));
    }
    let mut pending: Vec<Option<Group>> = groups.into_iter().map(Some).collect();
    let mut done = Vec::with_capacity(pending.len());
    for ix in 0..pending.len() {
        visit(graph, &maker, &mut pending, &mut done, ix);
    }
    done
}

/// Emits what a group needs, then the group. Depth is bounded by the graph, whose groups have no cycle.
fn visit(
    graph: &Graph,
    maker: &Column<ValueId, Option<usize>>,
    pending: &mut [Option<Group>],
    done: &mut Vec<Group>,
    ix: usize,
) {
    let Some(group) = pending[ix].take() else { return };
    let mut needed: Vec<ValueId> = inputs(graph, &group);
    while let Some(v) = needed.pop() {
        match (&graph.values[v].op, maker[v]) {
            (Op::Concat { parts }, _) => needed.extend(parts.iter().map(|part| super::group::base(graph, *part))),
            (_, Some(other)) => visit(graph, maker, pending, done, other),
            _ => {}
        }
    }
    done.push(group);
}
