//! Which model a plan's weights are of, whatever the plan was compiled for.

use crate::repack::Tensor;
use ingot_ir::plan::Plan;
use std::collections::BTreeSet;

/// Bytes of each tensor that tell models apart.
const PROBE_BYTES: usize = 4096;

/// Tells models apart by names and sizes of all tensors and the beginning of each, in 32 hexadecimal digits. A folder, plans of
/// its for any target, and artifacts made of it have the same. Tensors that `find` does not give are left out.
pub fn fingerprint<'a>(plan: &Plan, find: &dyn Fn(&str) -> Option<Tensor<'a>>) -> String {
    let segments = plan.weights.as_slice().iter().flat_map(|weight| &weight.segments);
    let names: BTreeSet<&str> = segments.map(|segment| segment.tensor.as_str()).collect();
    let mut hasher = blake3::Hasher::new();
    for name in names {
        let Some(tensor) = find(name) else { continue };
        let (n_bytes, probe) = tensor.beginning(PROBE_BYTES);
        hasher.update(format!("{name} {n_bytes} ").as_bytes());
        hasher.update(&probe);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}
