//! Products on matrix units, where a device has them: every format, tiles of many shapes with ragged borders, epilogues,
//! experts. Other tests' chunks take them too; here their tiles are small, which a software rasterizer makes faster.

use crate::support::{batch, check, formats, target};
use ingot_compiler::{Options, TargetProfile};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::kernel::Template;
use ingot_ir::weight::Format;
use ingot_tests::random::{AFFINE4, GraphBuilder, VOCAB};
use ingot_tests::rig::{Device, gpus};
use ingot_tests::shared::skip;
use ingot_tests::tolerance::{Arithmetic, kernel};

/// The first device if it has matrix units.
fn with_units() -> Option<&'static Device> {
    let has = |device: &&Device| device.target().matrix_units(AFFINE4, 32).is_some();
    let device = gpus().first().filter(has);
    if device.is_none() {
        skip("no adapter with matrix units for f16, so products on them did not run");
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

/// Runs a chunk, and checks that `n_products` of its kernels are on matrix units.
fn run(device: &Device, graph: &Graph, n_tokens: u32, k: u32, n_products: usize, adjust: impl Fn(&mut TargetProfile)) {
    let batch = batch(graph, &[n_tokens]);
    let mut target = target(device, &batch, 0);
    target.matvec_rows = 1;
    adjust(&mut target);
    let plan = ingot_compiler::compile(graph, &target, Options::new(64)).unwrap_or_else(|error| panic!("{error}"));
    let kernels = plan.kernels.as_slice().iter();
    let found = kernels.filter(|kernel| kernel.spec.template == Template::MatmulCoop).count();
    assert_eq!(found, n_products, "kernels on matrix units\n{plan}");
    check(graph, device, &target, &batch, kernel(Arithmetic::of(&target, graph), k));
}

#[test]
fn of_every_format() {
    let Some(device) = with_units() else { return };
    for format in [formats()[1], formats()[2]] {
        let start = std::time::Instant::now();
        run(device, &product(format, 96, 37), 19, 96, 1, |_| {});
        eprintln!("{format} {:?}", start.elapsed());
    }
}
