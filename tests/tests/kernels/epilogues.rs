//! Matrix products with what happens to their inputs and results, over random shapes.

use crate::support::{batch, cases, check, formats, run, target};
use ingot_compiler::TargetProfile;
use ingot_compiler::target::Fusion;
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::kernel::{EpilogueOp, Prologue, Template};
use ingot_ir::weight::Format;
use ingot_tests::random::{GraphBuilder, VOCAB};
use ingot_tests::rig::{Device, devices};
use ingot_tests::tolerance::{Arithmetic, kernel};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;

/// What happens to a product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tail {
    Add,
    Mul,
    Silu,
    Gelu,
    Pairs,
    GeluPairs,
    Scale,
    Softcap,
}

/// A random product.
#[derive(Clone, Debug)]
struct Case {
    k: u32,
    n: u32,
    format: Format,
    norm: bool,
    bias: bool,
    tails: Vec<Tail>,
    /// Whether the added value is wanted afterwards too, so that it cannot be added to in place.
    keeps_operands: bool,
    /// Whether all rows are computed, before some are taken.
    all_rows: bool,
    n_tokens: Vec<u32>,
    spare: u32,
    matvec_rows: u32,
    subgroups: bool,
    declined: Vec<Fusion>,
}

impl Case {
    fn graph(&self) -> Graph {
        let mut b = GraphBuilder::new("epilogue");
        let embed = |b: &mut GraphBuilder, name: &str, n_cols| {
            let table = b.matrix(name, VOCAB, n_cols, Format::F32);
            b.op(Op::Embed { parts: vec![table] })
        };
        let input = embed(&mut b, "embed.x", self.k);
        let mut operands: Vec<ValueId> = Vec::new();
        let x = if self.norm { b.norm(input, "norm") } else { input };
        // Operands come before the product, as a residual does.
        let halves = self.tails.iter().position(|tail| matches!(tail, Tail::Pairs | Tail::GeluPairs));
        for (ix, tail) in self.tails.iter().enumerate() {
            let n_cols = if halves.is_some_and(|at| ix > at) { self.n / 2 } else { self.n };
            if matches!(tail, Tail::Add | Tail::Mul) {
                operands.push(embed(&mut b, &format!("embed.{ix}"), n_cols));
            }
        }
        let mut y = b.linear(x, "w", self.n, self.format, self.bias);
        let mut next = operands.iter().copied();
        for tail in &self.tails {
            y = match tail {
                Tail::Add => b.op(Op::Add { a: next.next().expect("made above"), b: y }),
                Tail::Mul => b.op(Op::Mul { a: y, b: next.next().expect("made above") }),
                Tail::Silu => b.op(Op::Silu { x: y }),
                Tail::Gelu => b.op(Op::Gelu { x: y }),
                Tail::Pairs => b.op(Op::SiluMulPairs { x: y }),
                Tail::GeluPairs => b.op(Op::GeluMulPairs { x: y }),
                Tail::Scale => b.op(Op::Scale { x: y, by: 0.75 }),
                Tail::Softcap => b.op(Op::Softcap { x: y, cap: 1.5 }),
            };
        }
        let n_cols = b.graph.values[y].shape.n_cols;
        let last = operands.into_iter().rfind(|operand| b.graph.values[*operand].shape.n_cols == n_cols);
        if let Some(operand) = last.filter(|_| self.keeps_operands) {
            y = b.op(Op::Add { a: operand, b: y });
        }
        if self.all_rows {
            y = b.op(Op::GatherRows { x: y });
        }
        b.finish(vec![y])
    }

    fn check(&self, device: &Device) -> Result<(), String> {
        let graph = self.graph();
        let batch = batch(&graph, &self.n_tokens);
        let mut target = target(device, &batch, self.spare);
        target.matvec_rows = self.matvec_rows;
        target.subgroups &= self.subgroups;
        target.declined.clone_from(&self.declined);
        // The product's, and some more for what follows it and the norm before it.
        let tolerance = 3.0 * kernel(Arithmetic::of(&target, &graph), self.k);
        run(&graph, device, &target, &batch, tolerance)
    }
}

fn tails() -> impl Strategy<Value = Vec<Tail>> {
    use Tail::{Add, Gelu, GeluPairs, Mul, Pairs, Scale, Silu, Softcap};
    prop::sample::select(vec![
        vec![],
        vec![Add],
        vec![Mul],
        vec![Silu],
        vec![Gelu],
        vec![Pairs],
        vec![Silu, Mul],
        vec![Gelu, Mul],
        vec![Pairs, Add],
        vec![Add, Add],
        vec![Mul, Add, Silu],
        vec![Silu, Mul, Add],
        vec![Add, Pairs, Add],
        vec![Add, Mul, Add, Add],
        vec![GeluPairs, Add],
        vec![Scale, Add],
        vec![Scale, Softcap],
        vec![Softcap, Mul, Softcap],
    ])
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (prop::sample::select(vec![2u32, 30, 66, 128, 384, 640]), 1u32..70, prop::sample::select(formats()));
    let flags = any::<[bool; 5]>();
    let n_tokens = prop::collection::vec(prop_oneof![Just(1u32), 2u32..9, 9u32..70], 1..3);
    let all = vec![Fusion::NormPrologue, Fusion::Activation, Fusion::GatePairs, Fusion::Multiply, Fusion::Residual];
    let declined = prop_oneof![3 => Just(Vec::new()), 1 => prop::sample::subsequence(all, 1..5)];
    let target = (0u32..5, prop::sample::select(vec![1u32, 2, 3, 4, 8]), declined);
    (sizes, flags, tails(), n_tokens, target).prop_map(|((k, n, format), flags, tails, n_tokens, target)| {
        let [norm, bias, keeps_operands, all_rows, subgroups] = flags;
        let (spare, matvec_rows, declined) = target;
        let pairs = tails.iter().any(|tail| matches!(tail, Tail::Pairs | Tail::GeluPairs));
        let n = if pairs { 2 * n } else { n };
        let format = if format.takes_cols(k) { format } else { Format::F16 };
        Case {
            k,
            n,
            format,
            norm,
            bias,
            tails,
            keeps_operands,
            all_rows,
            n_tokens,
            spare,
            matvec_rows,
            subgroups,
            declined,
        }
    })
}

#[test]
fn random_products() {
    for device in devices() {
        let mut runner = TestRunner::new(cases(&device, 256, 12));
        let result = runner.run(&case(), |case| case.check(&device).map_err(TestCaseError::fail));
        result.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Each epilogue in each of the two kernels, with and without the norm; and that all of them were there.
#[test]
fn every_epilogue_in_both_kernels() {
    use Tail::{Add, Gelu, GeluPairs, Mul, Pairs, Scale, Silu, Softcap};
    let all = [
        vec![Add],
        vec![Mul],
        vec![Silu],
        vec![Gelu],
        vec![Pairs],
        vec![Silu, Mul, Add],
        vec![Pairs, Add],
        vec![GeluPairs],
        vec![Scale, Softcap],
    ];
    for device in devices() {
        let mut seen = BTreeSet::new();
        for (ix, tails) in all.iter().enumerate() {
            let case = Case {
                k: 130,
                n: 38,
                format: Format::Bf16,
                norm: true,
                bias: ix % 2 == 0,
                tails: tails.clone(),
                keeps_operands: ix % 3 == 1,
                all_rows: true,
                n_tokens: vec![18, 1],
                spare: 0,
                matvec_rows: 8,
                subgroups: true,
                declined: Vec::new(),
            };
            case.check(&device).unwrap_or_else(|why| panic!("{why}"));
            let graph = case.graph();
            let target = target(&device, &batch(&graph, &case.n_tokens), 0);
            let plan = ingot_compiler::compile(&graph, &target, ingot_compiler::Options::new(64)).expect("it ran");
            for kernel in plan.kernels.as_slice() {
                let spec = &kernel.spec;
                if spec.template.multiplies() {
                    seen.extend(spec.epilogue.iter().map(|op| (spec.template == Template::Matvec, name(*op))));
                    let prologue = if spec.prologue == Prologue::RmsNorm { "rms_norm" } else { "no prologue" };
                    seen.insert((spec.template == Template::Matvec, prologue));
                }
            }
        }
        let ops =
            ["bias", "add", "add_out", "mul", "silu", "gelu", "silu_mul_pairs", "gelu_mul_pairs", "scale", "softcap"];
        for op in ops {
            for is_matvec in [false, true] {
                assert!(seen.contains(&(is_matvec, op)), "no {op} on {device:?} in matvec: {is_matvec}; {seen:?}");
            }
        }
        assert!(seen.contains(&(true, "rms_norm")), "{seen:?}");
    }
}

fn name(op: EpilogueOp) -> &'static str {
    match op {
        EpilogueOp::Bias(_) => "bias",
        EpilogueOp::Add(_) => "add",
        EpilogueOp::Mul(_) => "mul",
        EpilogueOp::AddOut => "add_out",
        EpilogueOp::Silu => "silu",
        EpilogueOp::Gelu => "gelu",
        EpilogueOp::SiluMulPairs => "silu_mul_pairs",
        EpilogueOp::GeluMulPairs => "gelu_mul_pairs",
        EpilogueOp::Scale => "scale",
        EpilogueOp::Softcap => "softcap",
        EpilogueOp::RopeKv => "rope_kv",
        EpilogueOp::Normed => "normed",
    }
}

/// Gate and up projections as a model writes them, merged by the compiler into one product of pairs.
#[test]
fn gate_and_up_of_every_kind_of_format() {
    for format in formats().into_iter().step_by(7) {
        let mut b = GraphBuilder::new("mlp");
        let table = b.matrix("embed", VOCAB, 256, Format::F32);
        let x = b.op(Op::Embed { parts: vec![table] });
        let normed = b.norm(x, "norm");
        let gate = b.linear(normed, "gate", 256, format, true);
        let up = b.linear(normed, "up", 256, format, true);
        let gate = b.op(Op::Silu { x: gate });
        let y = b.op(Op::Mul { a: gate, b: up });
        let y = b.linear(y, "down", 256, format, false);
        let y = b.op(Op::Add { a: x, b: y });
        let y = b.op(Op::GatherRows { x: y });
        let graph = b.finish(vec![y]);
        for device in devices() {
            let batch = batch(&graph, &[17, 1, 1]);
            let target = target(&device, &batch, 3);
            check(&graph, &device, &target, &batch, 3.0 * kernel(Arithmetic::of(&target, &graph), 256));
        }
    }
}

/// Sums that are written into wider rows: their operands have rows of their own.
#[test]
fn sums_side_by_side() {
    let mut b = GraphBuilder::new("concat");
    let tables = [("embed.x", 34), ("embed.a", 5), ("embed.b", 12)];
    let tables = tables.map(|(name, n_cols)| b.matrix(name, VOCAB, n_cols, Format::F32));
    let [x, left, right] = tables.map(|table| b.op(Op::Embed { parts: vec![table] }));
    let p = b.linear(x, "p", 5, Format::Bf16, true);
    let p = b.op(Op::Add { a: left, b: p });
    let q = b.linear(x, "q", 24, Format::Bf16, true);
    let q = b.op(Op::SiluMulPairs { x: q });
    let q = b.op(Op::Add { a: q, b: right });
    let y = b.op(Op::Concat { parts: vec![p, q] });
    let all_rows = b.op(Op::GatherRows { x: y });
    let graph = b.finish(vec![all_rows]);
    for device in devices() {
        let batch = batch(&graph, &[11, 1]);
        check(&graph, &device, &target(&device, &batch, 0), &batch, 3.0 * kernel(Arithmetic::F32, 34));
    }
}

/// Norms of what a product left, added to a residual or not, and an embedding times a factor: by kernels that do both, and by
/// two each.
#[test]
fn sums_after_norms() {
    let mut b = GraphBuilder::new("post norm");
    let table = b.matrix("embed", VOCAB, 96, Format::Bf16);
    let x = b.op(Op::Embed { parts: vec![table] });
    let x = b.op(Op::Scale { x, by: 9.75 });
    let y = b.linear(x, "w", 96, Format::Bf16, false);
    let normed = b.norm(y, "norm");
    let y = b.op(Op::Add { a: x, b: normed });
    let normed = b.norm(y, "last");
    let y = b.op(Op::Add { a: normed, b: x });
    let y = b.op(Op::GatherRows { x: y });
    let graph = b.finish(vec![y]);
    for device in devices() {
        let batch = batch(&graph, &[17, 1, 1]);
        for declined in [vec![], vec![Fusion::NormResidual, Fusion::EmbedScale]] {
            let target = TargetProfile { declined, ..target(&device, &batch, 3) };
            check(&graph, &device, &target, &batch, 3.0 * kernel(Arithmetic::F32, 96));
        }
    }
}
