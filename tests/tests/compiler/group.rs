use crate::support::{DECODE, PREFILL, graph};
use ingot_compiler::pass::group::{Group, Kind, run};
use ingot_compiler::pipeline::graph_passes;
use ingot_compiler::{CompileError, TargetProfile};
use ingot_ir::graph::{Graph, Op};
use ingot_ir::size::Dims;
use ingot_tests::random;
use proptest::prelude::*;

fn groups(graph: &Graph, target: &TargetProfile, bounds: &Dims) -> Vec<Group> {
    run(graph, target, bounds).expect("every op is in a group")
}

/// A line a group: its members, and what it is.
fn show(groups: &[Group]) -> String {
    let line = |group: &Group| {
        let members: Vec<String> = group.members.iter().map(ToString::to_string).collect();
        format!("{}: {:?}", members.join(" "), group.kind)
    };
    groups.iter().map(line).collect::<Vec<_>>().join("\n")
}

const HEAD: &str = "graph head
         w0 = tensor embed : 8 x 32 bf16
         w1 = tensor norm : 32 x 1 f32
         v0 = embed w0 : tokens x 32
         v1 = rms_norm v0 w1 eps=0.00001 : tokens x 32
         v2 = linear v1 w0 : tokens x 8
         v3 = argmax v2 : tokens x 1
         output v2 v3";

#[test]
fn a_norm_joins_the_product_that_reads_it() {
    insta::assert_snapshot!(show(&groups(&graph(HEAD), &TargetProfile::cpu(), &PREFILL)), @r"
    v0: Embed { embed: v0, scale: 1.0 }
    v1 v2: Matrix { linear: v2, template: Matmul, norm: Some(v1), epilogue: [] }
    v3: Argmax
    ");
}

#[test]
fn a_gpu_computes_a_norm_of_many_rows_once() {
    insta::assert_snapshot!(show(&groups(&graph(HEAD), &TargetProfile::vulkan(), &PREFILL)), @r"
    v0: Embed { embed: v0, scale: 1.0 }
    v1: Norm { norm: v1, added: None }
    v2: Matrix { linear: v2, template: Matmul, norm: None, epilogue: [] }
    v3: Argmax
    ");
}

#[test]
fn epilogues_follow_single_users() {
    let text = "graph tail
         w0 = tensor embed : 32 x 32 bf16
         w1 = tensor bias layout=vector : 32 x 1 f32
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w0 bias=w1 : tokens x 32
         v2 = gelu v1 : tokens x 32
         v3 = mul v0 v2 : tokens x 32
         v4 = add v3 v0 : tokens x 32
         v5 = silu v4 : tokens x 32
         v6 = add v5 v4 : tokens x 32
         output v6";
    insta::assert_snapshot!(show(&groups(&graph(text), &TargetProfile::cpu(), &DECODE)), @r"
    v0: Embed { embed: v0, scale: 1.0 }
    v1 v2 v3 v4: Matrix { linear: v1, template: Matvec, norm: None, epilogue: [Bias(w1), Gelu, Mul(v0), Add(v0)] }
    v5: Map { x: v4, steps: [Silu] }
    v6: Map { x: v5, steps: [Add(v4)] }
    ");
}

#[test]
fn two_products_that_meet_are_joined_by_one_of_them() {
    let text = "graph meet
         w0 = tensor embed : 32 x 32 bf16
         w1 = tensor other : 32 x 32 f16
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w0 : tokens x 32
         v2 = silu v1 : tokens x 32
         v3 = linear v0 w1 : tokens x 32
         v4 = mul v2 v3 : tokens x 32
         output v4";
    insta::assert_snapshot!(show(&groups(&graph(text), &TargetProfile::cpu(), &DECODE)), @r"
    v0: Embed { embed: v0, scale: 1.0 }
    v1 v2 v4: Matrix { linear: v1, template: Matvec, norm: None, epilogue: [Silu, Mul(v3)] }
    v3: Matrix { linear: v3, template: Matvec, norm: None, epilogue: [] }
    ");
}

#[test]
fn an_output_is_not_absorbed() {
    let text = "graph out
         w0 = tensor embed : 32 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w0 : tokens x 32
         v2 = silu v1 : tokens x 32
         output v1 v2";
    insta::assert_snapshot!(show(&groups(&graph(text), &TargetProfile::cpu(), &DECODE)), @r"
    v0: Embed { embed: v0, scale: 1.0 }
    v1: Matrix { linear: v1, template: Matvec, norm: None, epilogue: [] }
    v2: Map { x: v1, steps: [Silu] }
    ");
}

#[test]
fn a_latent_cache_has_no_kernel_yet() {
    let error = run(&random::latent_graph(2, 32, 16), &TargetProfile::cpu(), &DECODE).expect_err("no kernel");
    assert!(matches!(error, CompileError::NoKernel { .. }));
    insta::assert_snapshot!(error, @r"v6: no kernel computes `kv_write` here (a latent cache); this model needs a kernel that Ingot does not have yet");
}

#[test]
fn a_rotation_that_no_cache_write_waits_for_has_no_kernel() {
    let text = "graph g
         w0 = tensor embed : 8 x 16 bf16
         w1 = inline 1.0,0.1,0.01,0.001,1.0,0.1,0.01,0.001 : 8 x 1 f32
         v0 = embed w0 : tokens x 16
         v1 = rope v0 w1 heads=1 head_dim=16 : tokens x 16
         output v1";
    insta::assert_snapshot!(run(&graph(text), &TargetProfile::cpu(), &DECODE).expect_err("no kernel"), @r"v1: no kernel computes `rope` here (it is neither a cache write's key nor its attention's query); this model needs a kernel that Ingot does not have yet");
}

proptest! {
    #![proptest_config(crate::support::cases(64))]
    #[test]
    fn every_value_is_in_one_group(graph in random::llama_graph(), target in crate::support::targets(), few in any::<bool>()) {
        let graph = graph_passes(&graph, &target, "assign_layout").expect("passes");
        let groups = groups(&graph, &target, if few { &DECODE } else { &PREFILL });
        for (id, value) in graph.values.iter() {
            let n = groups.iter().filter(|group| group.members.contains(&id)).count();
            match value.op {
                Op::Slice { .. } | Op::Concat { .. } => prop_assert_eq!(n, 0, "{} is a view", id),
                Op::RmsNorm { .. } => prop_assert!(n >= 1, "{id} is computed nowhere"),
                _ => prop_assert_eq!(n, 1, "{} is in {} groups", id, n),
            }
        }
        for group in &groups {
            if let Kind::Matrix { norm: Some(norm), .. } = &group.kind {
                prop_assert!(group.members.contains(norm));
            }
        }
    }
}
