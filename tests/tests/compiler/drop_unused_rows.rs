use crate::support::{graph, outputs, targets};
use ingot_compiler::TargetProfile;
use ingot_compiler::pass::drop_unused_rows::run;
use ingot_compiler::pipeline::graph_passes;
use ingot_tests::random;
use proptest::prelude::*;

#[test]
fn the_last_layer_runs_on_wanted_rows_from_its_attention_on() {
    let text = "graph g
         g0 = kv_group heads=1 k=32 v=32
         l0 = kv_layer g0
         w0 = tensor embed : 8 x 32 bf16
         w1 = tensor o : 32 x 32 bf16
         w2 = tensor norm : 32 x 1 f32
         v0 = embed w0 : tokens x 32
         v1 = kv_write v0 v0 layer=l0 : tokens x 0
         v2 = attention v0 v1 layer=l0 heads=1 scale=0.5 : tokens x 32
         v3 = linear v2 w1 : tokens x 32
         v4 = add v0 v3 : tokens x 32
         v5 = rms_norm v4 w2 eps=0.00001 : tokens x 32
         v6 = linear v5 w0 : tokens x 8
         v7 = argmax v6 : tokens x 1
         output v6 v7";
    insta::assert_snapshot!(run(&graph(text), &TargetProfile::cpu()), @r"
    graph g
    g0 = kv_group heads=1 k=32 v=32
    l0 = kv_layer g0
    w0 = tensor embed : 8 x 32 bf16
    w1 = tensor o : 32 x 32 bf16
    w2 = tensor norm : 32 x 1 f32
    v0 = embed w0 : tokens x 32
    v1 = kv_write v0 v0 layer=l0 : tokens x 0
    v2 = attention v0 v1 layer=l0 heads=1 scale=0.5 : tokens x 32
    v3 = gather_rows v2 : rows x 32
    v4 = linear v3 w1 : rows x 32
    v5 = gather_rows v0 : rows x 32
    v6 = add v5 v4 : rows x 32
    v7 = rms_norm v6 w2 eps=1e-5 : rows x 32
    v8 = linear v7 w0 : rows x 8
    v9 = argmax v8 : rows x 1
    output v8 v9
    ");
}

#[test]
fn a_graph_on_wanted_rows_stays() {
    let text = "graph g
         w0 = tensor embed : 8 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = gather_rows v0 : rows x 32
         v2 = linear v1 w0 : rows x 8
         output v2";
    assert_eq!(run(&graph(text), &TargetProfile::cpu()), graph(text));
}

proptest! {
    #![proptest_config(crate::support::cases(48))]
    #[test]
    fn the_wanted_rows_are_computed_as_before(graph in random::graph(), shape in random::batch_shape(), target in targets()) {
        let before = graph_passes(&graph, &target, "assign_layout").expect("passes");
        let after = run(&before, &target);
        after.verify().expect("verifies");
        let tensor = random::tensors(&graph, shape.seed);
        let batch = shape.batch(graph.kv.groups.len(), 4, 4, random::VOCAB);
        let (expected, found) = (outputs(&before, &tensor, &batch), outputs(&after, &tensor, &batch));
        for ((expected, found), step) in expected.iter().zip(&found).zip(&batch.steps) {
            for (expected, found) in expected.iter().zip(found) {
                prop_assert!(expected.rows(&step.rows).bits() == found.bits());
            }
        }
        // Rows are dropped in one place only: what follows an attention's result or a residual.
        let again = run(&after, &target);
        prop_assert_eq!(again.to_string(), after.to_string());
    }
}
