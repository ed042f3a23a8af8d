//! Assumes a verified graph. Guarantees: every value and weight is needed; a slice is of a value that is no slice and
//! never of all its columns; in a product of an activation and another value the activation comes first.

use super::rewrite;
use crate::target::TargetProfile;
use ingot_ir::graph::{Graph, Op};

/// Runs the pass.
pub fn run(graph: &Graph, _target: &TargetProfile) -> Graph {
    rewrite(graph, |new, op, _| match *op {
        Op::Slice { x, at, n_cols } => {
            if new.values[x].shape.n_cols == n_cols {
                return Some(x);
            }
            match new.values[x].op {
                Op::Slice { x, at: outer, .. } => Some(super::push(new, Op::Slice { x, at: outer + at, n_cols })),
                _ => None,
            }
        }
        Op::Concat { ref parts } if parts.len() == 1 => Some(parts[0]),
        Op::Mul { a, b } => {
            let active = |v| matches!(new.values[v].op, Op::Silu { .. } | Op::Gelu { .. });
            (active(b) && !active(a)).then(|| super::push(new, Op::Mul { a: b, b: a }))
        }
        _ => None,
    })
}
