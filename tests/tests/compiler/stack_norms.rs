use crate::support::{graph, keeps_meaning};
use ingot_compiler::TargetProfile;
use ingot_compiler::pass::stack_norms::run;
use ingot_compiler::target::Fusion;

keeps_meaning!(|graph, target| run(graph, target));

/// An attention whose heads are normed, the keys' with a given epsilon and a weight of a given format.
fn layer(k_eps: &str, k_format: &str) -> String {
    format!(
        "graph layer
         g0 = kv_group heads=1 k=16 v=16
         l0 = kv_layer g0
         w0 = tensor embed : 32 x 64 bf16
         w1 = tensor q_norm layout=vector : 16 x 1 bf16
         w2 = tensor k_norm layout=vector : 16 x 1 {k_format}
         w3 = inline 1.0,0.1,0.01,0.001,1.0,0.1,0.01,0.001 layout=vector : 8 x 1 f32
         v0 = embed w0 : tokens x 64
         v1 = slice v0 at=0 : tokens x 32
         v2 = slice v0 at=32 : tokens x 16
         v3 = slice v0 at=48 : tokens x 16
         v4 = rms_norm v1 w1 eps=1e-6 : tokens x 32
         v5 = rms_norm v2 w2 eps={k_eps} : tokens x 16
         v6 = rope v4 w3 heads=2 head_dim=16 : tokens x 32
         v7 = rope v5 w3 heads=1 head_dim=16 : tokens x 16
         v8 = kv_write v7 v3 layer=l0 : tokens x 0
         v9 = attention v6 v8 layer=l0 heads=2 scale=0.25 : tokens x 32
         output v9"
    )
}

#[test]
fn weights_of_queries_and_keys_become_one() {
    insta::assert_snapshot!(run(&graph(&layer("1e-6", "bf16")), &TargetProfile::vulkan()), @r"
    graph layer
    g0 = kv_group heads=1 k=16 v=16
    l0 = kv_layer g0
    w0 = tensor embed : 32 x 64 bf16
    w1 = tensor q_norm layout=vector : 16 x 1 bf16
    w2 = tensor k_norm layout=vector : 16 x 1 bf16
    w3 = inline 1.0,0.1,0.01,0.001,1.0,0.1,0.01,0.001 layout=vector : 8 x 1 f32
    w4 = stack w1 w2 layout=vector : 32 x 1 bf16
    w5 = rows w4 first=0 layout=vector : 16 x 1 bf16
    w6 = rows w4 first=16 layout=vector : 16 x 1 bf16
    v0 = embed w0 : tokens x 64
    v1 = slice v0 at=0 : tokens x 32
    v2 = slice v0 at=32 : tokens x 16
    v3 = slice v0 at=48 : tokens x 16
    v4 = rms_norm v1 w5 eps=1e-6 : tokens x 32
    v5 = rms_norm v2 w6 eps=1e-6 : tokens x 16
    v6 = rope v4 w3 heads=2 head_dim=16 : tokens x 32
    v7 = rope v5 w3 heads=1 head_dim=16 : tokens x 16
    v8 = kv_write v7 v3 layer=l0 : tokens x 0
    v9 = attention v6 v8 layer=l0 heads=2 scale=0.25 : tokens x 32
    output v9
    ");
}

/// One kernel norms both with one epsilon, and reads weights of one format.
#[test]
fn unlike_norms_stay() {
    for (k_eps, k_format) in [("1e-5", "bf16"), ("1e-6", "f32")] {
        let graph = graph(&layer(k_eps, k_format));
        assert_eq!(run(&graph, &TargetProfile::vulkan()), graph);
    }
    let graph = graph(&layer("1e-6", "bf16"));
    let target = TargetProfile { declined: vec![Fusion::HeadNorm], ..TargetProfile::vulkan() };
    assert_eq!(run(&graph, &target), graph);
}
