use crate::support::{graph, small_cpu};
use ingot_compiler::pass::split_large::run;
use ingot_compiler::{CompileError, TargetProfile, pipeline};
use ingot_ir::graph::Graph;
use ingot_tests::random;
use proptest::prelude::*;

fn target(max_binding_bytes: u64) -> TargetProfile {
    TargetProfile { max_binding_bytes, ..TargetProfile::cpu() }
}

fn split(text: &str, limit: u64) -> Graph {
    run(&graph(text), &target(limit)).expect("some rows fit")
}

#[test]
fn a_tied_table_is_split_once_for_both_its_uses() {
    let text = "graph tied
         w0 = tensor embed : 40 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w0 : tokens x 40
         v2 = argmax v1 : tokens x 1
         output v1 v2";
    insta::assert_snapshot!(split(text, 1024), @r"
    graph tied
    w0 = tensor embed : 40 x 32 bf16
    w1 = rows w0 first=0 : 16 x 32 bf16
    w2 = rows w0 first=16 : 16 x 32 bf16
    w3 = rows w0 first=32 : 8 x 32 bf16
    v0 = embed w1 w2 w3 : tokens x 32
    v1 = linear v0 w1 : tokens x 16
    v2 = linear v0 w2 : tokens x 16
    v3 = linear v0 w3 : tokens x 8
    v4 = concat v1 v2 v3 : tokens x 40
    v5 = argmax v4 : tokens x 1
    output v4 v5
    ");
}

#[test]
fn biases_and_pairs_go_with_their_rows() {
    let text = "graph pairs
         w0 = tensor embed : 8 x 32 bf16
         w1 = tensor both : 24 x 32 bf16
         w2 = tensor both.bias layout=vector : 24 x 1 f32
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w1 bias=w2 : tokens x 24
         v2 = silu_mul_pairs v1 : tokens x 12
         output v2";
    insta::assert_snapshot!(split(text, 1024), @r"
    graph pairs
    w0 = tensor embed : 8 x 32 bf16
    w1 = tensor both : 24 x 32 bf16
    w2 = tensor both.bias layout=vector : 24 x 1 f32
    w3 = rows w1 first=0 : 16 x 32 bf16
    w4 = rows w1 first=16 : 8 x 32 bf16
    w5 = rows w2 first=0 : 16 x 1 f32
    w6 = rows w2 first=16 : 8 x 1 f32
    v0 = embed w0 : tokens x 32
    v1 = linear v0 w3 bias=w5 : tokens x 16
    v2 = linear v0 w4 bias=w6 : tokens x 8
    v3 = silu_mul_pairs v1 : tokens x 8
    v4 = silu_mul_pairs v2 : tokens x 4
    v5 = concat v3 v4 : tokens x 12
    output v5
    ");
}

#[test]
fn what_fits_stays() {
    let text = "graph small
         w0 = tensor embed : 8 x 32 bf16
         v0 = embed w0 : tokens x 32
         output v0";
    assert_eq!(split(text, 512), graph(text));
}

#[test]
fn rows_that_alone_exceed_the_limit_are_an_error() {
    let text = "graph wide
         w0 = tensor embed : 16 x 32 bf16
         v0 = embed w0 : tokens x 32
         output v0";
    let error = run(&graph(text), &target(256)).expect_err("8 rows are 512 bytes");
    assert!(matches!(error, CompileError::TooLarge { .. }));
    insta::assert_snapshot!(error, @r"w0 (16 x 32 bf16) needs 512 bytes, but target `cpu` binds at most 256");
}

proptest! {
    #![proptest_config(crate::support::cases(48))]
    #[test]
    fn keeps_what_a_graph_computes(graph in random::graph(), shape in random::batch_shape(), limit in prop_oneof![Just(4096u64), Just(3072), Just(10_000)]) {
        let target = TargetProfile { max_binding_bytes: limit, ..small_cpu() };
        let merged = pipeline::graph_passes(&graph, &target, "merge_matmuls").expect("merges");
        let after = run(&merged, &target).expect("eight rows fit");
        crate::support::same_outputs(&graph, &after, &shape)?;
        for (id, value) in after.values.iter() {
            for weight in value.op.weights() {
                let weight = &after.weights[weight];
                let bytes = ingot_ir::weight::packed_bytes(weight.format, ingot_ir::weight::Layout::Packed, weight.n_rows, weight.n_cols);
                prop_assert!(bytes <= limit, "{id} reads a weight of {bytes} bytes");
            }
        }
    }
}
