//! What the tests of the passes share.

use ingot_compiler::pass::bucket::Bucket;
use ingot_compiler::target::{Fusion, TargetProfile};
use ingot_compiler::{Options, pass, pipeline};
use ingot_ir::graph::Graph;
use ingot_ir::kernel::KernelGraph;
use ingot_ir::size::Dims;
use ingot_tests::interpreter::{Interpreter, Matrix, State};
use ingot_tests::random::{self, BatchShape};
use proptest::prelude::*;

/// Sixteen tokens a page, as everywhere.
pub(crate) const OPTIONS: Options = Options::new(256);

/// Parses a graph that a test is written in.
pub(crate) fn graph(text: &str) -> Graph {
    text.parse().unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

/// A GPU-like target of small limits, so that small graphs meet them: a chunk's bins of logits are hardly within them.
pub(crate) fn small_gpu() -> TargetProfile {
    TargetProfile { prefill_tokens: 4, matvec_rows: 2, prefill_q_tile: 2, ..TargetProfile::gpu("small", 12_320, true) }
}

/// The CPU with a GPU's limits: kernels need no sources, so that it shows what the compiler itself does.
pub(crate) fn small_cpu() -> TargetProfile {
    TargetProfile {
        name: "small-cpu".into(),
        is_cpu: true,
        max_binding_bytes: 4096,
        kv_type: TargetProfile::cpu().kv_type,
        declined: TargetProfile::cpu().declined,
        ..small_gpu()
    }
}

/// Every target that the properties run for; half of them decline some fusions.
pub(crate) fn targets() -> impl Strategy<Value = TargetProfile> {
    let all = [
        Fusion::RopeKv,
        Fusion::HeadNorm,
        Fusion::NormResidual,
        Fusion::EmbedScale,
        Fusion::NormPrologue,
        Fusion::Activation,
        Fusion::GatePairs,
        Fusion::Multiply,
        Fusion::Residual,
        Fusion::HalfRows,
    ];
    let declined = prop_oneof![Just(Vec::new()), prop::sample::subsequence(all.to_vec(), 0..=all.len())];
    let target = prop_oneof![
        Just(TargetProfile::cpu()),
        Just(small_cpu()),
        Just(TargetProfile::vulkan()),
        Just(TargetProfile::nvidia()),
        Just(small_gpu())
    ];
    (target, declined).prop_map(|(target, declined)| TargetProfile { declined, ..target })
}

/// One token.
pub(crate) const DECODE: Dims = Dims { tokens: 1, sequences: 1, rows: 1, tiles: 1, filtered: 1 };
/// A prefill chunk.
pub(crate) const PREFILL: Dims = Dims { tokens: 64, sequences: 8, rows: 16, tiles: 12, filtered: 16 };

/// The kernels of one bucket, graph passes included.
pub(crate) fn kernels(graph: &Graph, target: &TargetProfile, bounds: Dims, all_rows: bool) -> KernelGraph {
    let graph = pipeline::graph_passes(graph, target, "assign_layout").expect("the graph passes take it");
    let bucket = Bucket { bounds, all_rows, max_kv: u32::MAX, max_parts: 1 };
    let graph = pipeline::bucket_graph(&graph, target, &bucket).expect("rows can be dropped");
    let kernels = pipeline::bucket_kernels(&graph, target, &bucket, OPTIONS).expect("there are kernels");
    let kernels = pass::alias::run(&kernels);
    kernels.verify().expect("alias keeps the rules");
    kernels
}

/// A line a kernel: template, prologue and epilogue.
pub(crate) fn summary(kernels: &KernelGraph) -> String {
    let line = |spec: &ingot_ir::kernel::KernelSpec| {
        let prologue = if spec.prologue == ingot_ir::kernel::Prologue::None {
            String::new()
        } else {
            format!("{} > ", spec.prologue)
        };
        let format = spec.weight.map_or(String::new(), |format| format!(" {format}"));
        let epilogue: String = spec.epilogue.iter().map(|op| format!(" > {op}")).collect();
        format!("{prologue}{}{format}{epilogue}", spec.template)
    };
    kernels.nodes.as_slice().iter().map(|node| line(&node.spec)).collect::<Vec<_>>().join("\n")
}

/// The outputs of every step of a batch, the cache shared.
pub(crate) fn outputs(graph: &Graph, tensor: &dyn Fn(&str) -> Vec<f32>, batch: &random::Batch) -> Vec<Vec<Matrix>> {
    let interpreter = Interpreter::new(graph, tensor);
    let mut state = State::default();
    let step = |tables: &_| {
        let mut values = interpreter.step(tables, &mut state);
        graph.outputs.iter().map(|output| std::mem::take(&mut values[*output])).collect()
    };
    batch.steps.iter().map(step).collect()
}

/// Checks that a pass kept what a graph computes, to the bit: passes move sums, they do not reorder them.
pub(crate) fn same_outputs(before: &Graph, after: &Graph, shape: &BatchShape) -> Result<(), TestCaseError> {
    after.verify().map_err(|error| TestCaseError::fail(error.to_string()))?;
    let tensor = random::tensors(before, shape.seed);
    let batch = shape.batch(before.kv.groups.len(), 4, 4, random::VOCAB);
    let (expected, found) = (outputs(before, &tensor, &batch), outputs(after, &tensor, &batch));
    for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
        for (expected, found) in expected.iter().zip(found) {
            prop_assert!(expected.bits() == found.bits(), "step {step} differs\n{before}\n{after}");
        }
    }
    Ok(())
}

/// Declares the property of a graph pass: it keeps what random graphs compute.
macro_rules! keeps_meaning {
    ($pass:expr) => {
        proptest::proptest! {
            #![proptest_config(proptest::prelude::ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]
            #[test]
            fn keeps_what_a_graph_computes(
                graph in ingot_tests::random::graph(),
                shape in ingot_tests::random::batch_shape(),
                target in crate::support::targets(),
            ) {
                let pass: fn(&ingot_ir::graph::Graph, &ingot_compiler::TargetProfile) -> ingot_ir::graph::Graph = $pass;
                crate::support::same_outputs(&graph, &pass(&graph, &target), &shape)?;
            }
        }
    };
}
pub(crate) use keeps_meaning;

/// What an interpreter is given where a test's weights do not matter.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
