//! Batches and targets that many tests need.

use ingot_compiler::TargetProfile;
use ingot_ir::graph::Graph;
use ingot_ir::weight::{Format, KFormat, ScaleType};
use ingot_tests::random::{Batch, BatchShape, VOCAB};
use ingot_tests::rig::{Device, Rig, turn};
use ingot_tests::stored::StoredTensors;
use proptest::prelude::*;
use std::sync::Arc;

/// Queries of a prefill attention tile, unless a test says otherwise.
pub(crate) const Q_TILE: u32 = 16;

/// Steps of one sequence.
pub(crate) fn batch(graph: &Graph, n_tokens: &[u32]) -> Batch {
    ragged(graph, &n_tokens.iter().map(|n| vec![*n]).collect::<Vec<_>>(), 1)
}

/// Steps of several sequences: `[step][sequence]` tokens.
pub(crate) fn ragged(graph: &Graph, q_lens: &[Vec<u32>], seed: u64) -> Batch {
    BatchShape { q_lens: q_lens.to_vec(), seed }.batch(graph.kv.groups.len(), 16, Q_TILE, VOCAB)
}

/// A device's target whose chunks are as large as a batch's largest step and `spare` tokens.
pub(crate) fn target(device: &Device, batch: &Batch, spare: u32) -> TargetProfile {
    let most = batch.steps.iter().map(|step| step.tokens.len() as u32).max().expect("a batch has steps");
    let prefill_tokens = (most + spare).max(2);
    // One round, so that many rows take the tiled kernel on every device.
    TargetProfile {
        prefill_tokens,
        max_rows: prefill_tokens,
        prefill_q_tile: Q_TILE,
        matvec_rounds: 1,
        ..device.target()
    }
}

/// A graph with random tensors on a device, every step of a batch.
pub(crate) fn run(
    graph: &Graph,
    device: &Device,
    target: &TargetProfile,
    batch: &Batch,
    tolerance: f64,
) -> Result<(), String> {
    let _turn = turn(device);
    let stored = Arc::new(StoredTensors::random(graph, 7));
    let mut rig = Rig::new(graph, &stored, device, target, batch);
    rig.check(batch, tolerance).map_err(|why| {
        let name = if device.is_cpu() { "CPU" } else { "GPU" };
        format!("{name}: {why}\n{graph}\n{}", rig.plan())
    })
}

/// As [`run`], for tests without cases of their own.
pub(crate) fn check(graph: &Graph, device: &Device, target: &TargetProfile, batch: &Batch, tolerance: f64) {
    run(graph, device, target, batch, tolerance).unwrap_or_else(|why| panic!("{why}"));
}

/// Random cases: few on a software rasterizer, which takes long to make pipelines.
pub(crate) fn cases(device: &Device, on_hardware: u32, on_software: u32) -> ProptestConfig {
    let cases = if device.is_software() { on_software } else { on_hardware };
    // A failure's graph says all; many rounds of pipelines to make it smaller would take minutes.
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 12, ..ProptestConfig::default() }
}

/// Every way of storing a matrix.
pub(crate) fn formats() -> Vec<Format> {
    let mut all = vec![Format::F32, Format::F16, Format::Bf16];
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            all.extend([ScaleType::F16, ScaleType::Bf16, ScaleType::F32].map(|scales| Format::Affine {
                bits,
                group,
                scales,
            }));
        }
    }
    let one_bit = [(32, ScaleType::F16), (64, ScaleType::Bf16), (128, ScaleType::F32)];
    all.extend(one_bit.map(|(group, scales)| Format::Affine { bits: 1, group, scales }));
    all.extend([Format::Mxfp4, Format::Mxfp8, Format::Nvfp4 { global: false }, Format::Nvfp4 { global: true }]);
    all.extend(KFormat::ALL.map(Format::K));
    all
}
