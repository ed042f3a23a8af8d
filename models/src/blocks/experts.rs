//! A layer's mixture of experts: the router's choice, the chosen experts' gated MLPs, their sum by shares.

use super::{Lowering, linear};
use crate::config::{Architecture, ExpertSpec};
use crate::error::{Error, Result};
use ingot_ir::graph::{Op, ValueId};
use ingot_ir::weight::{Layout, Source, WeightId};

/// What a family calls the parts of a mixture.
struct Names {
    /// The module within its layer.
    module: &'static str,
    /// An expert's gate, up and down projections. In a stack, as MLX has it, they are called as Qwen's.
    parts: [&'static str; 3],
}

const STACKED: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

fn names(architecture: Architecture) -> Names {
    match architecture {
        Architecture::Mixtral => Names { module: "block_sparse_moe", parts: ["w1", "w3", "w2"] },
        _ => Names { module: "mlp", parts: STACKED },
    }
}

/// The path of the stack of experts that a single expert's module belongs to; `None` for other modules.
pub(crate) fn stack_path(path: &str) -> Option<String> {
    let (module, expert) = path.split_once(".experts.")?;
    let (number, part) = expert.split_once('.')?;
    number.parse::<u32>().ok()?;
    let parts = [names(Architecture::Mixtral), names(Architecture::Qwen3Moe)].map(|names| names.parts);
    let part = parts.iter().find_map(|parts| parts.iter().position(|name| *name == part))?;
    Some(format!("{module}.switch_mlp.{}", STACKED[part]))
}

/// `sum over the chosen experts of share * down(silu(gate(x)) * up(x))`.
pub(super) fn mixture(
    to: &mut Lowering<'_>,
    x: ValueId,
    layer: &str,
    architecture: Architecture,
    spec: &ExpertSpec,
) -> Result<ValueId> {
    let (names, n_out) = (names(architecture), to.n_cols(x));
    let &ExpertSpec { n_experts, n_active: k, intermediate_size: n_inner, renormalize, .. } = spec;
    let path = format!("{layer}.{}", names.module);
    let logits = linear(to, x, &format!("{path}.gate"), n_experts, false)?;
    let route = to.push(Op::MoeRoute { logits, k, renormalize })?;
    let product = |to: &mut Lowering<'_>, x: ValueId, part: usize, n_rows: u32, n_cols: u32| {
        let single = |expert: u32| format!("{path}.experts.{expert}.{}", names.parts[part]);
        let stack = format!("{path}.switch_mlp.{}", STACKED[part]);
        let weight = stack_of(to, &stack, &single, n_experts, n_rows, n_cols)?;
        to.push(Op::MoeLinear { x, route, parts: vec![weight], n_experts })
    };
    let gate = product(to, x, 0, n_inner, n_out)?;
    let up = product(to, x, 1, n_inner, n_out)?;
    let gate = to.push(Op::Silu { x: gate })?;
    let inner = to.push(Op::Mul { a: gate, b: up })?;
    let parts = product(to, inner, 2, n_out, n_inner)?;
    to.push(Op::MoeSum { x: parts, route })
}

/// The experts' matrices one below the other: the checkpoint's stack, or made of one matrix an expert.
fn stack_of(
    to: &mut Lowering<'_>,
    stack: &str,
    single: &dyn Fn(u32) -> String,
    n_experts: u32,
    n_rows: u32,
    n_cols: u32,
) -> Result<WeightId> {
    let wrong = |to: &Lowering<'_>, path: &str, what: String| {
        Err(Error::tensor(to.weights.checkpoint().folder(), format!("{path}.weight"), what))
    };
    let Some(n_all) = n_rows.checked_mul(n_experts) else {
        return wrong(to, stack, format!("{n_experts} experts of {n_rows} rows are too many"));
    };
    if to.weights.has(stack) {
        let shape = to.weights.checkpoint().shape(&format!("{stack}.weight")).unwrap_or_default();
        if shape.len() != 3 || shape[0] != n_experts as usize {
            return wrong(to, stack, format!("shape {shape:?}; expected [{n_experts}, {n_rows}, ...]"));
        }
        return to.matrix(stack, n_all, n_cols);
    }
    let parts = (0..n_experts).map(|expert| to.matrix(&single(expert), n_rows, n_cols));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let format = to.graph.weights[parts[0]].format;
    if let Some(expert) = (0..n_experts).find(|expert| to.graph.weights[parts[*expert as usize]].format != format) {
        let other = to.graph.weights[parts[expert as usize]].format;
        return wrong(to, &single(expert), format!("is stored as {other}, but the layer's first expert as {format}"));
    }
    Ok(to.weight(n_all, n_cols, format, Layout::Unassigned, Source::Stack(parts)))
}
