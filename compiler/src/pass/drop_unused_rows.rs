//! Assumes outputs on rows of tokens. Guarantees: outputs are on the wanted rows, and every row-wise op that only the
//! outputs need runs on the wanted rows alone (in the last layer: from the attention's result on).
//!
//! Where every token's logits are wanted (one token a sequence), the rows are the tokens and nothing is to be dropped.

use super::{prune, push};
use crate::target::TargetProfile;
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::handle::Column;
use ingot_ir::size::Dim;

/// Runs the pass.
pub fn run(graph: &Graph, _target: &TargetProfile) -> Graph {
    // A value is row-only if everything that reads it is.
    let mut wanted_only = Column::new(graph.values.len(), true);
    for (id, value) in graph.values.iter().rev() {
        let narrow = wanted_only[id] && (value.op.is_row_wise() || matches!(value.op, Op::Argmax { .. }));
        if !narrow {
            value.op.operands().into_iter().for_each(|v| wanted_only[v] = false);
        }
    }
    let mut new =
        Graph { name: graph.name.clone(), weights: graph.weights.clone(), kv: graph.kv.clone(), ..Graph::default() };
    let mut full: Vec<Option<ValueId>> = vec![None; graph.values.len()];
    let mut rows: Vec<Option<ValueId>> = vec![None; graph.values.len()];
    for (id, value) in graph.values.iter() {
        let ix = id.0 as usize;
        let narrow = wanted_only[id] && (value.op.is_row_wise() || matches!(value.op, Op::Argmax { .. }));
        if narrow {
            let op = value.op.clone().map_operands(|v| {
                *rows[v.0 as usize].get_or_insert_with(|| {
                    let x = full[v.0 as usize].unwrap_or_else(|| unreachable!("{v} was computed on all rows"));
                    if new.values[x].shape.rows == Dim::Rows { x } else { push(&mut new, Op::GatherRows { x }) }
                })
            });
            rows[ix] = Some(push(&mut new, op));
        } else {
            let op = value
                .op
                .clone()
                .map_operands(|v| full[v.0 as usize].unwrap_or_else(|| unreachable!("{v} is needed on all rows")));
            full[ix] = Some(push(&mut new, op));
        }
    }
    let output = |v: &ValueId| match (rows[v.0 as usize], full[v.0 as usize]) {
        (Some(row), _) => Some(row),
        (None, Some(x)) if new.values[x].shape.rows == Dim::Rows => Some(x),
        (None, other) => other,
    };
    new.outputs = graph.outputs.iter().filter_map(output).collect();
    prune(&new)
}
