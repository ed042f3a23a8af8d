//! Assumes kernels in order. Guarantees: a sum with a value that nothing reads afterwards (a residual) is added in the
//! value's own place, so that the residual stream needs no second buffer and no second binding.

use ingot_ir::handle::Handle;
use ingot_ir::kernel::{Access, EPILOGUE_ROLES, EpilogueOp, KernelGraph, KernelId, Operand, Place, Role, SlabId};

/// Runs the pass.
pub fn run(kernels: &KernelGraph) -> KernelGraph {
    let mut new = kernels.clone();
    for id in kernels.nodes.ids() {
        if let Some((ix, from, to)) = candidate(&new, id) {
            apply(&mut new, id, ix, from, to);
        }
    }
    new
}

/// An `Add(ix)` of slab `from` into slab `to` that may be done in place.
fn candidate(kernels: &KernelGraph, id: KernelId) -> Option<(u8, SlabId, SlabId)> {
    let node = &kernels.nodes[id];
    let slab_of = |role: Role| {
        node.operands.iter().find(|operand| operand.role == role).and_then(|operand| match operand.place {
            Place::Slab(slab) => Some(slab),
            _ => None,
        })
    };
    let to = slab_of(Role::Out)?;
    if kernels.slabs[to].in_place_of.is_some()
        || node.spec.epilogue.contains(&EpilogueOp::AddOut)
        || writes_before(kernels, id, to)
    {
        return None;
    }
    node.spec.epilogue.iter().find_map(|op| {
        let EpilogueOp::Add(ix) = *op else { return None };
        let from = slab_of(EPILOGUE_ROLES[usize::from(ix)])?;
        let same_shape = kernels.slabs[from].shape == kernels.slabs[to].shape;
        let root = kernels.root(from);
        let touches = |operand: &Operand| matches!(operand.place, Place::Slab(s) if kernels.root(s) == root);
        let read_once_here = node.operands.iter().filter(|operand| touches(operand)).count() == 1;
        let read_later = kernels.nodes.iter().any(|(later, node)| later > id && node.operands.iter().any(touches));
        (same_shape && read_once_here && !read_later).then_some((ix, from, to))
    })
}

/// Whether an earlier node writes a slab (the parts of a concatenation share one).
fn writes_before(kernels: &KernelGraph, id: KernelId, slab: SlabId) -> bool {
    let writes = |operand: &Operand| operand.place == Place::Slab(slab) && operand.access == Access::ReadWrite;
    kernels.nodes.iter().any(|(other, node)| other != id && node.operands.iter().any(writes))
}

fn apply(kernels: &mut KernelGraph, id: KernelId, ix: u8, from: SlabId, to: SlabId) {
    assert!(from.ix() < to.ix(), "a result's slab is made after its operands'");
    kernels.slabs[to].in_place_of = Some(from);
    let node = &mut kernels.nodes[id];
    let gone = EPILOGUE_ROLES[usize::from(ix)];
    node.operands.retain(|operand| operand.role != gone);
    // Operands after the one that is gone move up.
    let moved = |n: u8| if n > ix { n - 1 } else { n };
    for operand in &mut node.operands {
        if let Some(n) = EPILOGUE_ROLES.iter().position(|role| *role == operand.role) {
            operand.role = EPILOGUE_ROLES[usize::from(moved(n as u8))];
        }
    }
    for op in &mut node.spec.epilogue {
        *op = match *op {
            EpilogueOp::Add(n) if n == ix => EpilogueOp::AddOut,
            EpilogueOp::Add(n) => EpilogueOp::Add(moved(n)),
            EpilogueOp::Mul(n) => EpilogueOp::Mul(moved(n)),
            EpilogueOp::Bias(n) => EpilogueOp::Bias(moved(n)),
            other => other,
        };
    }
}
