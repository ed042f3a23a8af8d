use crate::support::{graph, keeps_meaning};
use ingot_compiler::TargetProfile;
use ingot_compiler::pass::canonicalize::run;

keeps_meaning!(run);

#[test]
fn unneeded_values_and_weights_go() {
    let graph = graph(
        "graph g
         w0 = tensor embed : 8 x 32 bf16
         w1 = tensor unused : 8 x 32 bf16
         w2 = tensor head : 8 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w1 : tokens x 8
         v2 = linear v0 w2 : tokens x 8
         output v2",
    );
    insta::assert_snapshot!(run(&graph, &TargetProfile::cpu()), @r"
    graph g
    w0 = tensor embed : 8 x 32 bf16
    w1 = tensor head : 8 x 32 bf16
    v0 = embed w0 : tokens x 32
    v1 = linear v0 w1 : tokens x 8
    output v1
    ");
}

#[test]
fn slices_of_slices_and_of_everything_fold() {
    let graph = graph(
        "graph g
         w0 = tensor embed : 8 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = slice v0 at=0 : tokens x 32
         v2 = slice v1 at=8 : tokens x 16
         v3 = slice v2 at=4 : tokens x 8
         v4 = concat v3 : tokens x 8
         output v4",
    );
    insta::assert_snapshot!(run(&graph, &TargetProfile::cpu()), @r"
    graph g
    w0 = tensor embed : 8 x 32 bf16
    v0 = embed w0 : tokens x 32
    v1 = slice v0 at=12 : tokens x 8
    output v1
    ");
}

#[test]
fn the_activation_comes_first_in_a_product() {
    let graph = graph(
        "graph g
         w0 = tensor embed : 8 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = gelu v0 : tokens x 32
         v2 = mul v0 v1 : tokens x 32
         v3 = silu v2 : tokens x 32
         v4 = mul v1 v3 : tokens x 32
         output v4",
    );
    insta::assert_snapshot!(run(&graph, &TargetProfile::cpu()), @r"
    graph g
    w0 = tensor embed : 8 x 32 bf16
    v0 = embed w0 : tokens x 32
    v1 = gelu v0 : tokens x 32
    v2 = mul v1 v0 : tokens x 32
    v3 = silu v2 : tokens x 32
    v4 = mul v1 v3 : tokens x 32
    output v4
    ");
}

#[test]
fn a_cache_write_that_no_attention_reads_goes() {
    let graph = graph(
        "graph g
         g0 = kv_group heads=1 k=32 v=32
         l0 = kv_layer g0
         w0 = tensor embed : 8 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = kv_write v0 v0 layer=l0 : tokens x 0
         output v0",
    );
    insta::assert_snapshot!(run(&graph, &TargetProfile::cpu()), @r"
    graph g
    g0 = kv_group heads=1 k=32 v=32
    l0 = kv_layer g0
    w0 = tensor embed : 8 x 32 bf16
    v0 = embed w0 : tokens x 32
    output v0
    ");
}
