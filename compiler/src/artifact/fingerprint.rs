//! Which model a plan's weights are of, whatever the plan was compiled for.

use crate::repack::Tensor;
use ingot_ir::plan::{Plan, PlanKernel};
use std::collections::BTreeSet;

/// Bytes of each tensor that tell models apart.
const PROBE_BYTES: usize = 4096;

/// Tells models apart by names and sizes of all tensors and the beginning of each, by rotary frequencies and by what norms add, in 32
/// hexadecimal digits. A folder, plans of its for any target, and artifacts made of it have the same. Tensors that `find` does not
/// give are left out; `None` if it gives none.
pub fn fingerprint<'a>(plan: &Plan, find: &dyn Fn(&str) -> Option<Tensor<'a>>) -> Option<String> {
    let segments = plan.weights.as_slice().iter().flat_map(|weight| &weight.segments);
    let names: BTreeSet<&str> = segments.map(|segment| segment.tensor.as_str()).collect();
    let mut hasher = blake3::Hasher::new();
    let mut n_found = 0;
    for name in names {
        let Some(tensor) = find(name) else { continue };
        n_found += 1;
        let (n_bytes, probe) = tensor.beginning(PROBE_BYTES);
        hasher.update(format!("{name} {n_bytes} ").as_bytes());
        hasher.update(&probe);
    }
    let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<u32>>();
    let inline: BTreeSet<Vec<u32>> = plan.weights.as_slice().iter().map(|weight| bits(&weight.inline)).collect();
    let epsilon = |kernel: &PlanKernel| kernel.spec.f32("EPS").map(f32::to_bits);
    let epsilons: BTreeSet<u32> = plan.kernels.as_slice().iter().filter_map(epsilon).collect();
    inline.iter().flatten().chain(&epsilons).for_each(|bits| {
        hasher.update(&bits.to_le_bytes());
    });
    (n_found > 0).then(|| hasher.finalize().to_hex()[..32].to_owned())
}
