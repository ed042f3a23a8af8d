//! Kernels that work row by row: norm, element-wise maps, gathered rows, embeddings.

use crate::support::{batch, cases, check, run, target};
use ingot_compiler::target::Fusion;
use ingot_ir::graph::Op;
use ingot_ir::weight::Format;
use ingot_tests::random::{GraphBuilder, VOCAB};
use ingot_tests::rig::devices;
use ingot_tests::tolerance::{Arithmetic, kernel};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// What is done to the rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Norm,
    Gather,
    Silu,
    Gelu,
    Add,
    Mul,
    Square,
    Double,
    Pairs,
}

const ALL: [Work; 9] =
    [Work::Norm, Work::Gather, Work::Silu, Work::Gelu, Work::Add, Work::Mul, Work::Square, Work::Double, Work::Pairs];

fn check_rows(
    work: Work,
    n_cols: u32,
    n_tokens: &[u32],
    all_rows: bool,
    device: &ingot_tests::rig::Device,
) -> Result<(), String> {
    let n_cols = if work == Work::Pairs { n_cols * 2 } else { n_cols };
    let mut b = GraphBuilder::new("rows");
    let tables = [b.matrix("embed.x", VOCAB, n_cols, Format::F32), b.matrix("embed.y", VOCAB, n_cols, Format::F32)];
    let [x, y] = tables.map(|table| b.op(Op::Embed { parts: vec![table] }));
    let mut out = match work {
        Work::Norm => b.norm(x, "norm"),
        Work::Gather => x,
        Work::Silu => b.op(Op::Silu { x }),
        Work::Gelu => b.op(Op::Gelu { x }),
        Work::Add => b.op(Op::Add { a: x, b: y }),
        Work::Mul => b.op(Op::Mul { a: x, b: y }),
        Work::Square => b.op(Op::Mul { a: x, b: x }),
        Work::Double => b.op(Op::Add { a: x, b: x }),
        Work::Pairs => b.op(Op::SiluMulPairs { x }),
    };
    if all_rows || work == Work::Gather {
        out = b.op(Op::GatherRows { x: out });
    }
    let graph = b.finish(vec![out]);
    let batch = batch(&graph, n_tokens);
    run(&graph, device, &target(device, &batch, 1), &batch, kernel(Arithmetic::F32, n_cols))
}

#[test]
fn every_kernel_of_rows() {
    for device in devices() {
        for work in ALL {
            for (n_cols, all_rows) in [(1, true), (3, false), (66, true), (300, false)] {
                check_rows(work, n_cols, &[5, 1, 2], all_rows, &device).unwrap_or_else(|why| panic!("{work:?}: {why}"));
            }
        }
        check_rows(Work::Norm, 28_672, &[3], true, &device).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn random_rows() {
    let case = (prop::sample::select(ALL.to_vec()), 1u32..2100, prop::collection::vec(1u32..40, 1..3), any::<bool>());
    for device in devices() {
        let mut runner = TestRunner::new(cases(&device, 128, 24));
        let result = runner.run(&case, |(work, n_cols, n_tokens, all_rows)| {
            check_rows(work, n_cols, &n_tokens, all_rows, &device).map_err(TestCaseError::fail)
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The norm where no kernel takes it in, then as a product's prologue, both before several products.
#[test]
fn a_norm_of_several_products() {
    for declined in [vec![], vec![Fusion::NormPrologue]] {
        let mut b = GraphBuilder::new("norm");
        let table = b.matrix("embed", VOCAB, 70, Format::F32);
        let x = b.op(Op::Embed { parts: vec![table] });
        let normed = b.norm(x, "norm");
        let (p, q) = (b.linear(normed, "p", 33, Format::Bf16, false), b.linear(normed, "q", 33, Format::F32, true));
        let y = b.op(Op::Mul { a: p, b: q });
        let graph = b.finish(vec![y]);
        for device in devices() {
            let batch = batch(&graph, &[7, 1]);
            let mut target = target(&device, &batch, 0);
            target.declined.clone_from(&declined);
            check(&graph, &device, &target, &batch, 3.0 * kernel(Arithmetic::F32, 70));
        }
    }
}
