use crate::support::graph;
use ingot_compiler::TargetProfile;
use ingot_compiler::pass::assign_layout::run;
use ingot_compiler::pipeline::graph_passes;
use ingot_ir::graph::Op;
use ingot_ir::weight::Layout;
use proptest::prelude::*;

crate::support::keeps_meaning!(run);

const TEXT: &str = "graph g
         w0 = tensor embed : 8 x 32 affine4g32_bf16
         w1 = tensor norm : 32 x 1 bf16
         w2 = tensor head : 8 x 32 f16
         w3 = tensor head.bias : 8 x 1 bf16
         v0 = embed w0 : tokens x 32
         v1 = rms_norm v0 w1 eps=0.00001 : tokens x 32
         v2 = linear v1 w2 bias=w3 : tokens x 8
         output v2";

#[test]
fn the_cpu_reads_matrices_as_stored() {
    insta::assert_snapshot!(run(&graph(TEXT), &TargetProfile::cpu()), @r"
    graph g
    w0 = tensor embed layout=stored : 8 x 32 affine4g32_bf16
    w1 = tensor norm layout=vector : 32 x 1 bf16
    w2 = tensor head layout=stored : 8 x 32 f16
    w3 = tensor head.bias layout=vector : 8 x 1 bf16
    v0 = embed w0 : tokens x 32
    v1 = rms_norm v0 w1 eps=1e-5 : tokens x 32
    v2 = linear v1 w2 bias=w3 : tokens x 8
    output v2
    ");
}

#[test]
fn a_gpu_reads_packed_matrices() {
    insta::assert_snapshot!(run(&graph(TEXT), &TargetProfile::vulkan()), @r"
    graph g
    w0 = tensor embed layout=packed : 8 x 32 affine4g32_bf16
    w1 = tensor norm layout=vector : 32 x 1 bf16
    w2 = tensor head layout=packed : 8 x 32 f16
    w3 = tensor head.bias layout=vector : 8 x 1 bf16
    v0 = embed w0 : tokens x 32
    v1 = rms_norm v0 w1 eps=1e-5 : tokens x 32
    v2 = linear v1 w2 bias=w3 : tokens x 8
    output v2
    ");
}

proptest! {
    #![proptest_config(crate::support::cases(32))]
    #[test]
    fn every_weight_that_is_read_has_a_layout(graph in ingot_tests::random::graph(), target in crate::support::targets()) {
        let graph = graph_passes(&graph, &target, "assign_layout").expect("passes");
        for (_, value) in graph.values.iter() {
            for weight in value.op.weights() {
                let is_matrix = match value.op {
                    Op::Embed { .. } | Op::MoeLinear { .. } => true,
                    Op::Linear { weight: w, .. } => w == weight,
                    _ => false,
                };
                let wanted = if !is_matrix { Layout::Vector } else if target.is_cpu { Layout::Stored } else { Layout::Packed };
                prop_assert_eq!(graph.weights[weight].layout, wanted);
            }
        }
    }
}
