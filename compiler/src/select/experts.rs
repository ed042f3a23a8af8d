//! Kernels of a mixture of experts: the route, the products with the experts that it names, sorted by expert if they are
//! many, and their sum.

use super::builder::Builder;
use super::{STEP, epilogue, input, read, set_matrix_units, write};
use crate::CompileError;
use crate::pass::group::{Group, Step};
use crate::pass::half_rows::is_half;
use ingot_ir::graph::{Op, ValueId};
use ingot_ir::kernel::{Const, Place, Role, Template};
use ingot_ir::moe::Experts;

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
    template: Template,
    numbers: Experts,
    norm: Option<ValueId>,
    steps: &[Step],
) -> Result<(), CompileError> {
    let Op::MoeLinear { x, route, parts, .. } = &b.graph.values[product].op else {
        unreachable!("a group of products with experts")
    };
    let result = group.result();
    let chosen = match template {
        template if template.is_tiled() => read(Role::Order, order(b, *route, numbers)?),
        _ => read(Role::Route, b.whole(*route, product)?),
    };
    let (out, stride) = match group.half {
        true => (b.half_spot_for(result), b.cols(result)),
        false => (b.whole(result, result)?, b.cols(result)),
    };
    let mut first = 0;
    for part in parts {
        let weight = &b.graph.weights[*part];
        let n_experts = weight.n_rows / numbers.n_rows;
        let mut spec = b.spec(template, product);
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
        set_matrix_units(b, &mut spec);
        if template.is_tiled() {
            spec.set("TILE_M", Const::U32(tile_products(b, *route, numbers)));
        } else if is_half(b.graph, &b.users, b.target, product) {
            spec.set("HALF", Const::U32(1));
        }
        if group.half {
            spec.set("OUT_HALF", Const::U32(1));
        }
        let mut operands = vec![STEP];
        operands.extend(input(b, &mut spec, *x, norm, product)?);
        operands.extend([chosen, read(Role::Weight, Place::Weight(*part))]);
        epilogue(b, &mut spec, &mut operands, steps, result)?;
        operands.push(write(Role::Out, out));
        b.node(spec, operands, &group.members)?;
        first += n_experts;
    }
    Ok(())
}

/// The products that a route makes, expert by expert in tiles: a kernel before the first that needs them.
fn order(b: &mut Builder<'_>, route: ValueId, numbers: Experts) -> Result<Place, CompileError> {
    if let Some(place) = b.order(route) {
        return Ok(place);
    }
    let tile = tile_products(b, route, numbers);
    let mut spec = b.spec(Template::MoeOrder, route);
    spec.set("EXPERTS", Const::U32(numbers.n_experts));
    spec.set("TOP_K", Const::U32(numbers.k));
    spec.set("TILE_M", Const::U32(tile));
    let chosen = read(Role::Route, b.whole(route, route)?);
    let n_tiles = n_products(b, route, numbers).div_ceil(tile).saturating_add(numbers.n_experts);
    // A tile's expert goes before its products.
    let place = b.order_for(route, n_tiles.saturating_mul(tile + 1));
    b.node(spec, vec![STEP, chosen, write(Role::Out, place)], &[route])?;
    Ok(place)
}

/// Products of the largest step.
fn n_products(b: &Builder<'_>, route: ValueId, numbers: Experts) -> u32 {
    b.bucket.bounds.get(b.graph.values[route].shape.rows).saturating_mul(numbers.k)
}

/// Products in a tile: at most half of those that an expert has if all are taken alike, so that what its last tile lacks,
/// half a tile on average, is a quarter of them or less; as far as there are such tiles.
fn tile_products(b: &Builder<'_>, route: ValueId, numbers: Experts) -> u32 {
    let half = n_products(b, route, numbers) / numbers.n_experts / 2;
    let tiles = [128, 64, 32];
    tiles.into_iter().find(|tile| *tile <= half).unwrap_or(32)
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
