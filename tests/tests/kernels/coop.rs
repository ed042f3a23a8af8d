//! Products on matrix units, where a device has them: every kind of format, tiles of many shapes with ragged borders,
//! epilogues, experts. Chunks of other tests take them too, in the catalogue's tiles.

use crate::support::{batch, check, formats, target};
use ingot_compiler::select::tiles::{TileRow, TileShape, TileTable};
use ingot_compiler::{Options, TargetProfile};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::kernel::Template;
use ingot_ir::plan::Plan;
use ingot_ir::weight::Format;
use ingot_tests::random::{AFFINE4, GraphBuilder, VOCAB};
use ingot_tests::rig::{Device, gpus};
use ingot_tests::shared::skip;
use ingot_tests::tolerance::{Arithmetic, kernel};
use std::sync::Arc;

/// The first device, if it has matrix units.
fn with_units() -> Option<&'static Device> {
    let device = gpus().first().filter(|device| device.target().has_matrix_units());
    if device.is_none() {
        skip("no adapter with matrix units (f16 to f32), so products on them did not run");
    }
    device
}

fn product(format: Format, k: u32, n: u32) -> Graph {
    let mut b = GraphBuilder::new("product");
    let table = b.matrix("embed", VOCAB, k, Format::F32);
    let x = b.op(Op::Embed { parts: vec![table] });
    let x = b.linear(x, "w", n, format, false);
    let x = b.op(Op::GatherRows { x });
    b.finish(vec![x])
}

/// Runs a chunk of more rows than matrix-vector kernels take. Gives its plan.
fn run(device: &Device, graph: &Graph, n_tokens: u32, tolerance: f64, adjust: impl Fn(&mut TargetProfile)) -> Plan {
    let batch = batch(graph, &[n_tokens]);
    let mut target = TargetProfile { matvec_rows: 1, ..target(device, &batch, 0) };
    adjust(&mut target);
    check(graph, device, &target, &batch, tolerance);
    ingot_compiler::compile(graph, &target, Options::new(64)).unwrap_or_else(|error| panic!("{error}"))
}

/// A number of every product on matrix units, in order.
fn numbers(plan: &Plan, name: &str) -> Vec<Option<u32>> {
    let specs = plan.kernels.as_slice().iter().map(|kernel| &kernel.spec);
    specs.filter(|spec| spec.template == Template::MatmulCoop).map(|spec| spec.u32(name)).collect()
}

/// Of each width of codes the formats differ in scales alone, which have providers of their own.
#[test]
fn of_every_kind_of_format() {
    let Some(device) = with_units() else { return };
    let mut kinds: Vec<Format> = Vec::new();
    for format in formats().into_iter().filter(|format| *format != Format::F32) {
        let alike = |other: &Format| match (format, *other) {
            (Format::Affine { bits, scales, .. }, Format::Affine { bits: other, scales: others, .. }) => {
                bits == other && (scales == others || bits != 4)
            }
            (format, other) => format == other,
        };
        if !kinds.iter().any(alike) {
            kinds.push(format);
        }
    }
    for format in kinds {
        let k = if matches!(format, Format::K(_)) { 512 } else { 192 };
        // 37 rows of W and 19 of x: no tile is full.
        let plan = run(device, &product(format, k, 37), 19, kernel(Arithmetic::F16Inputs, k), |_| {});
        let found = numbers(&plan, "K");
        assert!(!found.is_empty() && found.iter().all(|found| *found == Some(k)), "{format} takes matrix units");
    }
}

/// Rows and columns as many as tiles have, one more and one less; several subgroups each way, pieces for all invocations and
/// for some, one step of columns and several; slices of columns.
#[test]
fn in_tiles_of_many_shapes() {
    let Some(device) = with_units() else { return };
    // TILE_M, TILE_N, TILE_K, UNIT_M, UNIT_N, SLICES
    let tiles = [
        [16, 32, 32, 16, 16, 1],
        [32, 16, 64, 16, 16, 1],
        [64, 32, 32, 32, 16, 1],
        [32, 64, 64, 16, 32, 2],
        [16, 32, 128, 16, 32, 4],
        [16, 16, 64, 16, 16, 4],
    ];
    for (ix, tiles) in tiles.into_iter().enumerate() {
        let (m, n) = ([32, 33, 63, 96, 15, 40][ix], [65, 31, 32, 129, 70, 16][ix]);
        let k = [32, 64, 160, 192, 256, 192][ix];
        let format = [AFFINE4, Format::F16][ix % 2];
        let names = ["TILE_M", "TILE_N", "TILE_K", "UNIT_M", "UNIT_N", "SLICES"].map(String::from);
        // Whatever tile a step of so many rows has by default.
        let rows = [0, 16, 32, 64].map(|rows| TileRow {
            shape: TileShape { template: Template::MatmulCoop.name().into(), weight: format.to_string(), rows, n, k },
            tiles: names.iter().cloned().zip(tiles).collect(),
            us: 1.0,
            default_us: 1.0,
        });
        let graph = product(format, k, n);
        let plan = run(device, &graph, m, kernel(Arithmetic::F16Inputs, k), |target| {
            let mut table = TileTable::new("a device", target.name.clone());
            rows.iter().for_each(|row| table.insert(row.clone()));
            target.tiles = Arc::new(table);
        });
        assert_eq!(numbers(&plan, "SLICES"), [Some(tiles[5])], "the table's tiles were taken");
    }
}

/// A gated MLP with its norm: what only products on matrix units read lies in half rows.
#[test]
fn with_epilogues_and_half_rows() {
    let Some(device) = with_units() else { return };
    let mut b = GraphBuilder::new("mlp");
    let table = b.matrix("embed", VOCAB, 64, Format::F32);
    let residual = b.op(Op::Embed { parts: vec![table] });
    let x = b.norm(residual, "norm");
    let gate = b.linear(x, "gate", 96, AFFINE4, true);
    let gate = b.op(Op::Silu { x: gate });
    let up = b.linear(x, "up", 96, AFFINE4, true);
    let x = b.op(Op::Mul { a: gate, b: up });
    let x = b.linear(x, "down", 64, Format::Bf16, true);
    let x = b.op(Op::Add { a: residual, b: x });
    let x = b.op(Op::GatherRows { x });
    let graph = b.finish(vec![x]);
    let tolerance = 3.0 * kernel(Arithmetic::F16Inputs, 96);
    let plan = run(device, &graph, 21, tolerance, |_| {});
    let half = numbers(&plan, "X_HALF");
    assert!(half.len() > 1 && half.iter().all(|x| *x == Some(1)), "{plan}");
    // Gate and up of each chunk, and not down.
    assert_eq!(2 * numbers(&plan, "OUT_HALF").iter().filter(|out| **out == Some(1)).count(), half.len(), "{plan}");
}

/// Experts of a chunk; the router multiplies in single precision.
#[test]
fn with_experts() {
    let Some(device) = with_units() else { return };
    let mut b = GraphBuilder::new("experts");
    let table = b.matrix("embed", VOCAB, 64, Format::F32);
    let x = b.op(Op::Embed { parts: vec![table] });
    let logits = b.linear(x, "router", 5, Format::Bf16, false);
    let route = b.op(Op::MoeRoute { logits, k: 2, renormalize: true });
    let stack = |b: &mut GraphBuilder, x: ValueId, name: &str, n: u32, k: u32| {
        let weight = b.matrix(name, 5 * n, k, AFFINE4);
        b.op(Op::MoeLinear { x, route, parts: vec![weight], n_experts: 5 })
    };
    let x = stack(&mut b, x, "up", 96, 64);
    let x = b.op(Op::Silu { x });
    let x = stack(&mut b, x, "down", 37, 96);
    let x = b.op(Op::GatherRows { x });
    let graph = b.finish(vec![x]);
    let plan = run(device, &graph, 45, 2.0 * kernel(Arithmetic::F16Inputs, 96), |_| {});
    assert_eq!(numbers(&plan, "N"), [Some(96), Some(37)], "{plan}");
    assert_eq!(numbers(&plan, "X_HALF"), [None, Some(1)], "{plan}");
}

/// Numbers of 100,000, which half precision does not have.
#[test]
fn of_large_numbers() {
    let Some(device) = with_units() else { return };
    let mut b = GraphBuilder::new("large");
    let table = b.matrix("embed", VOCAB, 64, Format::F32);
    let x = b.op(Op::Embed { parts: vec![table] });
    let x = b.op(Op::Scale { x, by: 1e5 });
    let x = b.linear(x, "w", 40, AFFINE4, false);
    let x = b.op(Op::GatherRows { x });
    let graph = b.finish(vec![x]);
    run(device, &graph, 9, kernel(Arithmetic::F16Inputs, 64), |_| {});
}
