use crate::support::{DECODE, graph};
use ingot_compiler::TargetProfile;
use ingot_compiler::pass::group::{self, Group, inputs};
use ingot_compiler::pass::order::run;
use ingot_compiler::pipeline::graph_passes;
use ingot_ir::graph::Op;
use ingot_tests::random;
use proptest::prelude::*;

fn results(groups: &[Group]) -> String {
    groups.iter().map(|group| group.result().to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_group_waits_for_what_its_epilogue_reads() {
    // The gate's group takes the product with up (v3), so up's group comes first.
    let graph = graph(
        "graph meet
         w0 = tensor embed : 32 x 32 bf16
         w1 = tensor other : 32 x 32 f16
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w0 : tokens x 32
         v2 = silu v1 : tokens x 32
         v3 = linear v0 w1 : tokens x 32
         v4 = mul v2 v3 : tokens x 32
         output v4",
    );
    let groups = group::run(&graph, &TargetProfile::cpu(), &DECODE).expect("groups");
    assert_eq!(results(&groups), "v0 v4 v3");
    assert_eq!(results(&run(&graph, groups)), "v0 v3 v4");
}

proptest! {
    #![proptest_config(crate::support::cases(48))]
    #[test]
    fn groups_read_what_earlier_groups_made(graph in random::llama_graph(), target in crate::support::targets(), seed in any::<u64>()) {
        let graph = graph_passes(&graph, &target, "assign_layout").expect("passes");
        let mut groups = group::run(&graph, &target, &DECODE).expect("groups");
        let n = groups.len();
        // Whatever the order before.
        ingot_tests::rng::Rng::new(seed).shuffle(&mut groups);
        let groups = run(&graph, groups);
        prop_assert_eq!(groups.len(), n);
        let mut made = Vec::new();
        for group in &groups {
            let mut wanted = inputs(&graph, group);
            while let Some(v) = wanted.pop() {
                match &graph.values[v].op {
                    Op::Concat { parts } => wanted.extend(parts.iter().map(|part| group::base(&graph, *part))),
                    _ => prop_assert!(made.contains(&v), "{v} is read before it is made"),
                }
            }
            made.extend(group.members.iter().copied());
        }
    }
}
