//! Assumes groups. Guarantees: a value that only products in half precision or on matrix units read is stored in half rows alone (f16 in pairs,
//! see `shaders/lib/half_rows.wgsl`); a residual that such products read normed is stored a second time so, times the
//! norm's weight, with sums of its squares, so that the norm leaves its readers a factor a row.
//!
//! A product reads its input once for every few rows of its matrix. In half rows that is a quarter of the bytes of an f32
//! input and its norm's weight, and nothing is left to convert.

use super::group::{Group, Kind, Step};
use crate::target::{Fusion, TargetProfile};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::handle::Column;
use ingot_ir::kernel::Template;
use ingot_ir::weight::Weight;

/// Columns of half rows come in eights; such products take whole blocks of 32.
const BLOCK: u32 = 32;

/// Runs the pass.
pub fn run(graph: &Graph, target: &TargetProfile, mut groups: Vec<Group>) -> Vec<Group> {
    if !target.takes(Fusion::HalfRows) {
        return groups;
    }
    let users = graph.users();
    // Whether every reader of a value is a half-precision product of it, with this norm or none.
    let feeds = |v: ValueId, norm: Option<ValueId>| {
        let reads = |user: &ValueId| {
            groups.iter().any(|group| match &group.kind {
                Kind::Matrix { linear, template: Template::Matvec, norm: own, .. } => {
                    // Products with experts make their norm themselves: their router, in single precision, reads it too.
                    let takes = norm.is_none() || matches!(graph.values[*linear].op, Op::Linear { .. });
                    linear == user && *own == norm && takes && is_half(graph, &users, target, *linear)
                }
                Kind::Matrix { linear, template: Template::MatmulCoop, .. } => linear == user && norm.is_none(),
                _ => false,
            })
        };
        let whole = graph.values[v].shape.n_cols.is_multiple_of(BLOCK) && !graph.outputs.contains(&v);
        whole && !users[v].is_empty() && users[v].iter().all(reads)
    };
    let decide = |group: &Group| {
        let result = group.result();
        let in_rows = !users[result].iter().any(|user| matches!(graph.values[*user].op, Op::Concat { .. }));
        let (half, residual) = match &group.kind {
            Kind::Attention | Kind::Norm { added: None, .. } => (feeds(result, None), false),
            Kind::Matrix { template: Template::MatmulCoop, .. } => (in_rows && feeds(result, None), false),
            Kind::Matrix { linear, template: Template::Matvec, epilogue, .. } => {
                let rotates = matches!(epilogue.last(), Some(Step::RopeKv { .. }));
                // Three buffers more: with two operands there would be nine.
                let is_operand = |step: &&Step| matches!(step, Step::Bias(_) | Step::Add(_) | Step::Mul(_));
                let fits = epilogue.iter().filter(is_operand).count() < 2;
                let is_linear = matches!(graph.values[*linear].op, Op::Linear { .. });
                (!rotates && feeds(result, None), !rotates && in_rows && fits && is_linear)
            }
            _ => (false, false),
        };
        let is_norm = |user: &ValueId| matches!(graph.values[*user].op, Op::RmsNorm { x, .. } if x == result);
        let norms: Vec<ValueId> = users[result].iter().copied().filter(is_norm).collect();
        let normed = match norms[..] {
            [norm] if residual && !half && feeds(norm, Some(norm)) => Some(norm),
            _ => None,
        };
        (half, normed)
    };
    let decided: Vec<_> = groups.iter().map(decide).collect();
    for (group, (half, normed)) in groups.iter_mut().zip(decided) {
        (group.half, group.normed) = (half, normed);
    }
    groups
}

/// Whether a product of few rows multiplies in half precision.
pub fn is_half(graph: &Graph, users: &Column<ValueId, Vec<ValueId>>, target: &TargetProfile, product: ValueId) -> bool {
    let weight = rounded(graph, users, product);
    weight.is_some_and(|weight| target.multiplies_half(weight.format, weight.n_cols))
}

/// Whether a product of many rows takes matrix units.
pub fn is_coop(graph: &Graph, users: &Column<ValueId, Vec<ValueId>>, target: &TargetProfile, product: ValueId) -> bool {
    let weight = rounded(graph, users, product);
    weight.is_some_and(|weight| target.matrix_units(weight.format, weight.n_cols).is_some())
}

/// The weight of a product whose input may be rounded to half precision. A router's may not: two experts may be nearly as good.
fn rounded<'a>(graph: &'a Graph, users: &Column<ValueId, Vec<ValueId>>, product: ValueId) -> Option<&'a Weight> {
    let weight = match graph.values[product].op {
        Op::Linear { weight, .. } => weight,
        Op::MoeLinear { ref parts, .. } => parts[0],
        _ => return None,
    };
    (!routes(graph, users, product)).then(|| &graph.weights[weight])
}

/// Whether a product's result chooses experts.
pub fn routes(graph: &Graph, users: &Column<ValueId, Vec<ValueId>>, product: ValueId) -> bool {
    users[product].iter().any(|user| matches!(graph.values[*user].op, Op::MoeRoute { .. }))
}
