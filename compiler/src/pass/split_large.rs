//! Assumes merged matrices. Guarantees: no matrix is larger than the target's binding limit: a linear layer becomes
//! several on runs of its rows, side by side; an embedding table becomes parts, a stack of experts parts of whole ones.
//! Activated pairs move into the parts.

use super::{push, rewrite};
use crate::CompileError;
use crate::target::TargetProfile;
use ingot_ir::graph::{Graph, Op};
use ingot_ir::weight::{Layout, Source, Weight, WeightId, packed_bytes};
use std::collections::BTreeMap;

/// Rows of a part are a multiple of this, so that row pairs stay together and packed rows stay aligned.
const ROW_STEP: u32 = 8;

/// Runs the pass. Fails where a few rows alone exceed the limit.
pub fn run(graph: &Graph, target: &TargetProfile) -> Result<Graph, CompileError> {
    let mut parts_of: BTreeMap<WeightId, Vec<(u32, u32)>> = BTreeMap::new();
    for (id, value) in graph.values.iter() {
        let step = graph.experts(id).map_or(ROW_STEP, |experts| experts.n_rows);
        for weight in value.op.weights() {
            let runs = runs(graph, weight, step, target)?;
            if runs.len() > 1 {
                parts_of.insert(weight, runs);
            }
        }
    }
    // A weight's parts are made once, however many ops use it (a tied embedding is also the head).
    let mut made: BTreeMap<WeightId, Vec<WeightId>> = BTreeMap::new();
    let mut split = |new: &mut Graph, weight: WeightId, runs: &[(u32, u32)]| {
        let make = || {
            let Weight { n_cols, format, .. } = new.weights[weight];
            let part = |&(first, count): &(u32, u32)| Weight {
                n_rows: count,
                n_cols,
                format,
                layout: Layout::Unassigned,
                source: Source::Rows { of: weight, first, count },
            };
            runs.iter().map(part).map(|part| new.weights.push(part)).collect::<Vec<_>>()
        };
        made.entry(weight).or_insert_with(make).clone()
    };
    Ok(rewrite(graph, |new, op, _| match op {
        Op::Embed { parts } => {
            let [table] = parts[..] else { return None };
            let runs = parts_of.get(&table)?;
            let parts = split(new, table, runs);
            Some(push(new, Op::Embed { parts }))
        }
        Op::MoeLinear { x, route, parts, n_experts } => {
            let [stack] = parts[..] else { return None };
            let parts = split(new, stack, parts_of.get(&stack)?);
            Some(push(new, Op::MoeLinear { x: *x, route: *route, parts, n_experts: *n_experts }))
        }
        Op::Linear { x, weight, bias } => {
            let runs = parts_of.get(weight)?;
            let parts = split(new, *weight, runs);
            let biases = bias.map(|bias| split(new, bias, runs));
            let part = |(ix, weight): (usize, &WeightId)| {
                let bias = biases.as_ref().map(|biases| biases[ix]);
                push(new, Op::Linear { x: *x, weight: *weight, bias })
            };
            let parts = parts.iter().enumerate().map(part).collect();
            Some(push(new, Op::Concat { parts }))
        }
        Op::SiluMulPairs { x } | Op::GeluMulPairs { x } => {
            let Op::Concat { parts } = new.values[*x].op.clone() else { return None };
            let parts = parts.into_iter().map(|x| push(new, op.clone().map_operands(|_| x))).collect();
            Some(push(new, Op::Concat { parts }))
        }
        _ => None,
    }))
}

/// The runs of rows (first, count), multiples of `step`, that fit the limit each.
fn runs(graph: &Graph, id: WeightId, step: u32, target: &TargetProfile) -> Result<Vec<(u32, u32)>, CompileError> {
    let weight = &graph.weights[id];
    let bytes = |n_rows| packed_bytes(weight.format, Layout::Packed, n_rows, weight.n_cols);
    let limit = target.max_binding_bytes;
    if bytes(weight.n_rows) <= limit {
        return Ok(vec![(0, weight.n_rows)]);
    }
    let row_bytes = weight.format.row_bytes(weight.n_cols).max(1);
    let mut rows = u32::try_from(limit / row_bytes).unwrap_or(u32::MAX) / step * step;
    while rows > 0 && bytes(rows) > limit {
        rows -= step;
    }
    if rows == 0 {
        let what = format!("{id} ({} x {} {})", weight.n_rows, weight.n_cols, weight.format);
        return Err(CompileError::TooLarge { what, needed: bytes(step), limit, target: target.name.clone() });
    }
    let starts = (0..weight.n_rows).step_by(rows as usize);
    Ok(starts.map(|first| (first, rows.min(weight.n_rows - first))).collect())
}
