//! Every way of storing a matrix, in every kernel that reads matrices.

use crate::support::{batch, check, formats, target};
use ingot_compiler::{Options, TargetProfile};
use ingot_ir::graph::{Graph, Op};
use ingot_ir::weight::{Format, KFormat, ScaleType};
use ingot_tests::random::{GraphBuilder, VOCAB};
use ingot_tests::rig::{Device, Rig, devices, gpus, turn};
use ingot_tests::stored::StoredTensors;
use ingot_tests::tolerance::{Arithmetic, kernel};
use std::sync::Arc;

/// An odd number of groups or blocks, of some 400 columns or more.
fn width(format: Format) -> u32 {
    let group = match format {
        Format::F32 | Format::F16 | Format::Bf16 => return 384,
        Format::Affine { group, .. } => group.into(),
        Format::Mxfp4 | Format::Mxfp8 => 32,
        Format::Nvfp4 { .. } => 16,
        Format::K(k) => k.block(),
    };
    group * ((384 / group).max(2) | 1)
}

fn embedding(format: Format, n_cols: u32) -> Graph {
    let mut b = GraphBuilder::new("embed");
    let table = b.matrix("embed", VOCAB, n_cols, format);
    let x = b.op(Op::Embed { parts: vec![table] });
    b.finish(vec![x])
}

/// A product whose rows are all computed (many: matmul, one: matvec) before some are taken.
fn product(format: Format, k: u32, n: u32) -> Graph {
    let mut b = GraphBuilder::new("product");
    let table = b.matrix("embed", VOCAB, k, Format::F32);
    let x = b.op(Op::Embed { parts: vec![table] });
    let x = b.linear(x, "w", n, format, false);
    let x = b.op(Op::GatherRows { x });
    b.finish(vec![x])
}

/// A product of the wanted rows alone (matvec, row by row).
fn head(format: Format, k: u32, n: u32) -> Graph {
    let mut b = GraphBuilder::new("head");
    let table = b.matrix("embed", VOCAB, k, Format::F32);
    let x = b.op(Op::Embed { parts: vec![table] });
    let x = b.linear(x, "w", n, format, false);
    b.finish(vec![x])
}

fn each_device(graph: &Graph, n_tokens: &[u32], k: u32, adjust: impl Fn(&Device, &mut TargetProfile)) {
    for device in devices() {
        on_device(&device, graph, n_tokens, k, &adjust);
    }
}

fn on_device(device: &Device, graph: &Graph, n_tokens: &[u32], k: u32, adjust: &impl Fn(&Device, &mut TargetProfile)) {
    let batch = batch(graph, n_tokens);
    let mut target = target(device, &batch, 0);
    adjust(device, &mut target);
    check(graph, device, &target, &batch, kernel(Arithmetic::of(&target, graph), k));
}

/// The same of a graph with a format. A software rasterizer takes long to make pipelines, so of the affine ones it sees of each
/// width every length of groups and every type of scales once, not all pairs of them.
fn each_device_of(
    format: Format,
    graph: &Graph,
    n_tokens: &[u32],
    k: u32,
    adjust: impl Fn(&Device, &mut TargetProfile),
) {
    let is_chosen = match format {
        Format::Affine { bits, group, scales } => {
            (u32::from(bits) + group.ilog2() + scales as u32).is_multiple_of(3) || bits == 1
        }
        _ => true,
    };
    for device in devices().into_iter().filter(|device| is_chosen || !device.is_software()) {
        on_device(&device, graph, n_tokens, k, &adjust);
    }
}

#[test]
fn embed_reads_every_format() {
    for format in formats() {
        each_device_of(format, &embedding(format, width(format)), &[5, 1], 1, |_, _| {});
    }
}

#[test]
fn products_read_every_format() {
    for format in formats() {
        // 37 rows: no tile, no pair and no block of rows is full. One token then takes the other kernel.
        each_device_of(format, &product(format, width(format), 37), &[19, 1], width(format), |_, _| {});
    }
}

/// Few rows of x at once in the matrix-vector kernel.
#[test]
fn matvec_takes_several_rows_of_every_format() {
    for format in formats() {
        each_device_of(format, &product(format, width(format), 37), &[5], width(format), |_, target| {
            target.matvec_rows = 4;
        });
    }
}

/// Activations rounded to 8 bits, where codes are bytes or halves of them: one tile of x and several, one row and eight.
#[test]
fn whole_numbers_of_every_format_that_has_them() {
    let is_code = |format: &Format| matches!(format, Format::Affine { bits: 4 | 8, .. } | Format::K(KFormat::Q4K));
    for (ix, format) in formats().into_iter().filter(is_code).enumerate() {
        let k = [width(format), 4096, 20_480][ix % 3];
        each_device(&product(format, k, 37), &[5, 1], k, |_, target| {
            target.matvec_rows = [8, 1][ix % 2];
            (target.limits.integer_dot, target.int8_activations) = (true, true);
        });
        for device in gpus() {
            let graph = product(format, k, 37);
            let mut target = target(device, &batch(&graph, &[5, 1]), 0);
            (target.limits.integer_dot, target.int8_activations) = (true, true);
            if !target.multiplies_half(format, k) {
                continue;
            }
            let plan = ingot_compiler::compile(&graph, &target, Options::new(64)).expect("it ran");
            assert!(plan.kernels.as_slice().iter().any(|kernel| kernel.spec.u32("INT8") == Some(1)), "{format}");
        }
    }
}

#[test]
fn kernels_without_subgroups_read_every_kind_of_format() {
    for format in formats().into_iter().step_by(4) {
        each_device(&product(format, width(format), 37), &[2, 1], width(format), |_, target| {
            target.matvec_rows = 2;
            target.subgroups = false;
        });
    }
}

/// Widths that no vector, block or subgroup divides.
#[test]
fn odd_widths() {
    for k in [2, 6, 66, 96, 48] {
        for format in formats().into_iter().filter(|format| format.takes_cols(k)).step_by(if k == 96 { 5 } else { 1 }) {
            each_device_of(format, &head(format, k, 1), &[3], k, |_, _| {});
            each_device_of(format, &product(format, k, 3), &[9, 1], k, |_, _| {});
            each_device_of(format, &embedding(format, k), &[3], 1, |_, _| {});
        }
    }
}

/// The widest product of the largest model.
#[test]
fn the_widest_product() {
    for format in [Format::Bf16, formats()[16]] {
        each_device(&product(format, 28_672, 3), &[9, 1], 28_672, |_, _| {});
    }
    each_device(&embedding(Format::F16, 28_672), &[3], 1, |_, _| {});
}

/// Numbers of 100,000 beside small ones, with a norm and without: half precision ends at 65,504.
#[test]
fn large_numbers_stay_finite() {
    for format in [formats()[16], Format::Affine { bits: 4, group: 32, scales: ScaleType::F32 }] {
        for normed in [false, true] {
            let mut b = GraphBuilder::new("large");
            let table = b.matrix("embed", VOCAB, 128, Format::F32);
            let input = b.op(Op::Embed { parts: vec![table] });
            let x = if normed { b.norm(input, "norm") } else { input };
            let x = b.linear(x, "up", 256, format, false);
            let x = b.op(Op::GatherRows { x });
            let graph = b.finish(vec![x]);
            let mut stored = StoredTensors::random(&graph, 3);
            let mut numbers = stored.numbers("embed");
            numbers.chunks_exact_mut(128).enumerate().for_each(|(row, numbers)| numbers[row * 7 % 128] = 1e5);
            stored.set("embed", numbers);
            let stored = Arc::new(stored);
            for device in devices() {
                let _turn = turn(&device);
                let batch = batch(&graph, &[1, 5, 1]);
                let mut target = target(&device, &batch, 0);
                target.matvec_rows = 8;
                let tolerance = 3.0 * kernel(Arithmetic::of(&target, &graph), 128);
                let mut rig = Rig::new(&graph, &stored, &device, &target, &batch);
                rig.check(&batch, tolerance).unwrap_or_else(|why| panic!("{why}"));
            }
        }
    }
}

/// Tiles that are full, and one row more or less.
#[test]
fn tile_borders() {
    for (n_tokens, n) in [(63, 63), (64, 64), (65, 65), (128, 127), (129, 1), (1, 129)] {
        each_device(&product(Format::Bf16, 34, n), &[n_tokens], 34, |_, _| {});
    }
}

/// A table, a head and a product in parts: a binding takes 2 KiB.
#[test]
fn matrices_above_the_binding_limit() {
    for format in [Format::F32, Format::Bf16, formats()[20]] {
        for graph in [embedding(format, 128), head(format, 128, 50), product(format, 128, 50)] {
            each_device(&graph, &[3, 1], 128, |_, target| target.max_binding_bytes = 6 << 10);
        }
    }
}

/// Weights that are written in place and weights that go through staging buffers are the same.
#[test]
fn both_ways_of_upload_give_the_same_numbers() {
    for device in gpus() {
        for format in [Format::F32, Format::Bf16, formats()[10]] {
            // Larger than a piece of an upload.
            let graph = product(format, 1024, 301);
            let batch = batch(&graph, &[3, 1]);
            let target = target(device, &batch, 0);
            check(&graph, device, &target, &batch, kernel(Arithmetic::of(&target, &graph), 1024));
        }
    }
}
