//! Kernels of a mixture of experts: the route, the products with the experts that it names, and their sum.

use super::builder::Builder;
use super::{STEP, epilogue, input, read, write};
use crate::CompileError;
use crate::pass::group::{Group, Step};
use crate::pass::half_rows::is_half;
use ingot_ir::graph::{Op, ValueId};
use ingot_ir::kernel::{Const, Place, Role, Template};

pub(super) fn route(b: &mut Builder<'_>, group: &Group) -> Result<(), CompileError> {
    let result = group.result();
    let Op::MoeRoute { logits, k, renormalize } = b.graph.values[result].op else { unreachable!("a route group") };
    let mut spec = b.spec(Template::MoeRoute, result);
    spec.set("EXPERTS", Const::U32(b.cols(logits)));
    spec.set("TOP_K", Const::U32(k));
    spec.set("RENORMALIZE", Const::U32(u32::from(renormalize)));
    let logits = b.whole(logits, result)?;
    let out = b.whole(result, result)?;
    b.node(spec, vec![STEP, read(Role::X, logits), write(Role::Out, out)], &group.members)
}

/// A stack in parts becomes a node a part, each of which writes the rows of its own experts.
pub(super) fn products(
    b: &mut Builder<'_>,
    group: &Group,
    product: ValueId,
    norm: Option<ValueId>,
    steps: &[Step],
) -> Result<(), CompileError> {
    let (Op::MoeLinear { x, route, parts, .. }, Some(numbers)) =
        (&b.graph.values[product].op, b.graph.experts(product))
    else {
        unreachable!("a group of products with experts")
    };
    let result = group.result();
    let route = b.whole(*route, product)?;
    let (out, stride) = match group.half {
        true => (b.half_spot_for(result), b.cols(result)),
        false => (b.whole(result, result)?, b.cols(result)),
    };
    let mut first = 0;
    for part in parts {
        let weight = &b.graph.weights[*part];
        let n_experts = weight.n_rows / numbers.n_rows;
        let mut spec = b.spec(Template::Matvec, product);
        spec.weight = Some(weight.format);
        for (name, number) in [
            ("K", weight.n_cols),
            ("N", numbers.n_rows),
            ("EXPERTS", numbers.n_experts),
            ("EXPERT_FIRST", first),
            ("EXPERT_COUNT", n_experts),
            ("TOP_K", numbers.k),
            ("X_EACH", u32::from(numbers.each)),
            ("OUT_STRIDE", stride / numbers.k),
            ("OUT_AT", 0),
        ] {
            spec.set(name, Const::U32(number));
        }
        if is_half(b.graph, &b.users, b.target, product) {
            spec.set("HALF", Const::U32(1));
        }
        if group.half {
            spec.set("OUT_HALF", Const::U32(1));
        }
        let mut operands = vec![STEP];
        operands.extend(input(b, &mut spec, *x, norm, product)?);
        operands.extend([read(Role::Route, route), read(Role::Weight, Place::Weight(*part))]);
        epilogue(b, &mut spec, &mut operands, steps, result)?;
        operands.push(write(Role::Out, out));
        b.node(spec, operands, &group.members)?;
        first += n_experts;
    }
    Ok(())
}

pub(super) fn sum(b: &mut Builder<'_>, group: &Group, sum: ValueId, steps: &[Step]) -> Result<(), CompileError> {
    let Op::MoeSum { x, route } = b.graph.values[sum].op else { unreachable!("a group of a sum of experts") };
    let result = group.result();
    let n_cols = b.cols(sum);
    let mut spec = b.spec(Template::MoeSum, sum);
    spec.set("N_COLS", Const::U32(n_cols));
    spec.set("TOP_K", Const::U32(b.cols(x) / n_cols));
    let mut operands = vec![STEP, read(Role::X, b.whole(x, sum)?), read(Role::Route, b.whole(route, sum)?)];
    epilogue(b, &mut spec, &mut operands, steps, result)?;
    operands.push(write(Role::Out, b.whole(result, result)?));
    b.node(spec, operands, &group.members)
}
