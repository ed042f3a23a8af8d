use crate::support::{graph, keeps_meaning};
use ingot_compiler::TargetProfile;
use ingot_compiler::pass::{canonicalize, merge_matmuls::run};
use ingot_compiler::target::Fusion;

keeps_meaning!(|graph, target| run(&canonicalize::run(graph, target), target));

/// q, k and v of given formats, with or without biases.
fn qkv(formats: [&str; 3], bias: &str) -> String {
    let [q, k, v] = formats;
    format!(
        "graph qkv
         g0 = kv_group heads=1 k=16 v=16
         l0 = kv_layer g0
         w0 = tensor embed : 8 x 32 bf16
         w1 = tensor q : 32 x 32 {q}
         w2 = tensor k : 16 x 32 {k}
         w3 = tensor v : 16 x 32 {v}
         w4 = inline 1.0,0.1,0.01,0.001,1.0,0.1,0.01,0.001 : 8 x 1 f32
         w5 = tensor q.bias layout=vector : 32 x 1 f32
         w6 = tensor k.bias layout=vector : 16 x 1 f32
         w7 = tensor v.bias layout=vector : 16 x 1 f32
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w1{} : tokens x 32
         v2 = linear v0 w2{} : tokens x 16
         v3 = linear v0 w3{} : tokens x 16
         v4 = rope v1 w4 heads=2 head_dim=16 : tokens x 32
         v5 = rope v2 w4 heads=1 head_dim=16 : tokens x 16
         v6 = kv_write v5 v3 layer=l0 : tokens x 0
         v7 = attention v4 v6 layer=l0 heads=2 scale=0.25 : tokens x 32
         output v7",
        bias.replace('N', "5"),
        bias.replace('N', "6"),
        bias.replace('N', "7"),
    )
}

#[test]
fn queries_keys_and_values_become_one_product() {
    insta::assert_snapshot!(run(&graph(&qkv(["bf16"; 3], "")), &TargetProfile::cpu()), @r"
    graph qkv
    g0 = kv_group heads=1 k=16 v=16
    l0 = kv_layer g0
    w0 = tensor embed : 8 x 32 bf16
    w1 = tensor q : 32 x 32 bf16
    w2 = tensor k : 16 x 32 bf16
    w3 = tensor v : 16 x 32 bf16
    w4 = inline 1.0,0.1,0.01,0.001,1.0,0.1,0.01,0.001 : 8 x 1 f32
    w5 = stack w1 w2 w3 : 64 x 32 bf16
    v0 = embed w0 : tokens x 32
    v1 = linear v0 w5 : tokens x 64
    v2 = slice v1 at=0 : tokens x 32
    v3 = slice v1 at=32 : tokens x 16
    v4 = slice v1 at=48 : tokens x 16
    v5 = rope v2 w4 heads=2 head_dim=16 : tokens x 32
    v6 = rope v3 w4 heads=1 head_dim=16 : tokens x 16
    v7 = kv_write v6 v4 layer=l0 : tokens x 0
    v8 = attention v5 v7 layer=l0 heads=2 scale=0.25 : tokens x 32
    output v8
    ");
}

#[test]
fn biases_are_stacked_alike() {
    insta::assert_snapshot!(run(&graph(&qkv(["bf16"; 3], " bias=wN")), &TargetProfile::cpu()), @r"
    graph qkv
    g0 = kv_group heads=1 k=16 v=16
    l0 = kv_layer g0
    w0 = tensor embed : 8 x 32 bf16
    w1 = tensor q : 32 x 32 bf16
    w2 = tensor k : 16 x 32 bf16
    w3 = tensor v : 16 x 32 bf16
    w4 = inline 1.0,0.1,0.01,0.001,1.0,0.1,0.01,0.001 : 8 x 1 f32
    w5 = tensor q.bias layout=vector : 32 x 1 f32
    w6 = tensor k.bias layout=vector : 16 x 1 f32
    w7 = tensor v.bias layout=vector : 16 x 1 f32
    w8 = stack w1 w2 w3 : 64 x 32 bf16
    w9 = stack w5 w6 w7 : 64 x 1 f32
    v0 = embed w0 : tokens x 32
    v1 = linear v0 w8 bias=w9 : tokens x 64
    v2 = slice v1 at=0 : tokens x 32
    v3 = slice v1 at=32 : tokens x 16
    v4 = slice v1 at=48 : tokens x 16
    v5 = rope v2 w4 heads=2 head_dim=16 : tokens x 32
    v6 = rope v3 w4 heads=1 head_dim=16 : tokens x 16
    v7 = kv_write v6 v4 layer=l0 : tokens x 0
    v8 = attention v5 v7 layer=l0 heads=2 scale=0.25 : tokens x 32
    output v8
    ");
}

#[test]
fn unlike_formats_merge_in_equal_groups() {
    insta::assert_snapshot!(run(&graph(&qkv(["affine4g32_bf16", "bf16", "affine4g32_bf16"], "")), &TargetProfile::cpu()), @r"
    graph qkv
    g0 = kv_group heads=1 k=16 v=16
    l0 = kv_layer g0
    w0 = tensor embed : 8 x 32 bf16
    w1 = tensor q : 32 x 32 affine4g32_bf16
    w2 = tensor k : 16 x 32 bf16
    w3 = tensor v : 16 x 32 affine4g32_bf16
    w4 = inline 1.0,0.1,0.01,0.001,1.0,0.1,0.01,0.001 : 8 x 1 f32
    w5 = stack w1 w3 : 48 x 32 affine4g32_bf16
    v0 = embed w0 : tokens x 32
    v1 = linear v0 w5 : tokens x 48
    v2 = slice v1 at=0 : tokens x 32
    v3 = linear v0 w2 : tokens x 16
    v4 = slice v1 at=32 : tokens x 16
    v5 = rope v2 w4 heads=2 head_dim=16 : tokens x 32
    v6 = rope v3 w4 heads=1 head_dim=16 : tokens x 16
    v7 = kv_write v6 v4 layer=l0 : tokens x 0
    v8 = attention v5 v7 layer=l0 heads=2 scale=0.25 : tokens x 32
    output v8
    ");
}

#[test]
fn three_formats_stay_three_products() {
    let before = graph(&qkv(["f32", "bf16", "f16"], ""));
    let after = run(&before, &TargetProfile::cpu());
    let linears = |g: &ingot_ir::graph::Graph| g.values.as_slice().iter().filter(|v| v.op.name() == "linear").count();
    assert_eq!(linears(&after), 3);
}

/// A gated MLP of given formats.
fn mlp(gate: &str, up: &str, more: &str) -> String {
    format!(
        "graph mlp
         w0 = tensor embed : 8 x 32 bf16
         w1 = tensor gate : 64 x 32 {gate}
         w2 = tensor up : 64 x 32 {up}
         w3 = tensor gate.bias layout=vector : 64 x 1 f32
         w4 = tensor up.bias layout=vector : 64 x 1 f32
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w1 bias=w3 : tokens x 64
         v2 = silu v1 : tokens x 64
         v3 = linear v0 w2 bias=w4 : tokens x 64
         v4 = mul v2 v3 : tokens x 64
         {more}"
    )
}

#[test]
fn gate_and_up_become_pairs_of_rows() {
    insta::assert_snapshot!(run(&graph(&mlp("bf16", "bf16", "output v4")), &TargetProfile::cpu()), @r"
    graph mlp
    w0 = tensor embed : 8 x 32 bf16
    w1 = tensor gate : 64 x 32 bf16
    w2 = tensor up : 64 x 32 bf16
    w3 = tensor gate.bias layout=vector : 64 x 1 f32
    w4 = tensor up.bias layout=vector : 64 x 1 f32
    w5 = interleave w1 w2 : 128 x 32 bf16
    w6 = interleave w3 w4 : 128 x 1 f32
    v0 = embed w0 : tokens x 32
    v1 = linear v0 w5 bias=w6 : tokens x 128
    v2 = silu_mul_pairs v1 : tokens x 64
    output v2
    ");
}

#[test]
fn gate_and_up_stay_apart_where_they_cannot_meet() {
    let same = |text: &str, target: &TargetProfile| {
        let before = graph(text);
        assert_eq!(run(&before, target).to_string(), before.to_string());
    };
    // Unlike formats.
    same(&mlp("bf16", "f16", "output v4"), &TargetProfile::cpu());
    // Another reader of the gate, of the activation, of up.
    for other in ["v1", "v2", "v3"] {
        same(&mlp("bf16", "bf16", &format!("v5 = add v4 {other} : tokens x 64\noutput v5")), &TargetProfile::cpu());
    }
    same(&mlp("bf16", "bf16", "output v4 v2"), &TargetProfile::cpu());
    // A target that has no such kernel.
    let plain = TargetProfile { declined: vec![Fusion::GatePairs], ..TargetProfile::cpu() };
    same(&mlp("bf16", "bf16", "output v4"), &plain);
}
