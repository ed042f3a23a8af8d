//! Assumes that weights are in their final pieces. Guarantees: every weight that an op reads has a layout that all its
//! readers take: matrices as the checkpoint stores them (CPU) or packed into one buffer (GPU), vectors widened to f32.

use crate::target::TargetProfile;
use ingot_ir::graph::{Graph, Op};
use ingot_ir::weight::Layout;

/// Runs the pass.
pub fn run(graph: &Graph, target: &TargetProfile) -> Graph {
    let matrix = if target.is_cpu { Layout::Stored } else { Layout::Packed };
    let mut new = graph.clone();
    for (_, value) in graph.values.iter() {
        for weight in value.op.weights() {
            let is_matrix = match &value.op {
                Op::Embed { .. } | Op::MoeLinear { .. } => true,
                Op::Linear { weight: w, .. } => *w == weight,
                _ => false,
            };
            new.weights[weight].layout = if is_matrix { matrix } else { Layout::Vector };
        }
    }
    new
}
