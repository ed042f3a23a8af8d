use crate::support::{cases, graph, outputs, targets};
use ingot_compiler::TargetProfile;
use ingot_compiler::pass::pair_rotary::run;
use ingot_ir::weight::RotaryPairs;
use ingot_tests::random;
use ingot_tests::tolerance::{Arithmetic, kernel, relative_l2};
use proptest::prelude::*;

/// Queries and keys of heads of 6 numbers, 4 of them rotated; the keys' layer has a bias.
const LAYER: &str = "graph layer
         g0 = kv_group heads=1 k=6 v=6
         l0 = kv_layer g0
         w0 = tensor embed : 32 x 32 bf16
         w1 = tensor q : 12 x 32 bf16
         w2 = tensor k : 6 x 32 bf16
         w3 = tensor v : 6 x 32 bf16
         w4 = tensor k.bias layout=vector : 6 x 1 f32
         w5 = inline 1.0,0.1 layout=vector : 2 x 1 f32
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w1 : tokens x 12
         v2 = linear v0 w2 bias=w4 : tokens x 6
         v3 = linear v0 w3 : tokens x 6
         v4 = rope v1 w5 heads=2 head_dim=6 rot_dim=4 : tokens x 12
         v5 = rope v2 w5 heads=1 head_dim=6 rot_dim=4 : tokens x 6
         v6 = kv_write v5 v3 layer=l0 : tokens x 0
         v7 = attention v4 v6 layer=l0 heads=2 scale=0.5 : tokens x 12
         output v7";

#[test]
fn rows_of_queries_and_keys_change_places() {
    insta::assert_snapshot!(run(&graph(LAYER), &TargetProfile::vulkan()), @r"
    graph layer
    g0 = kv_group heads=1 k=6 v=6
    l0 = kv_layer g0
    w0 = tensor embed : 32 x 32 bf16
    w1 = tensor q : 12 x 32 bf16
    w2 = tensor k : 6 x 32 bf16
    w3 = tensor v : 6 x 32 bf16
    w4 = tensor k.bias layout=vector : 6 x 1 f32
    w5 = inline 1.0,0.1 layout=vector : 2 x 1 f32
    w6 = pair_rows w1 head_dim=6 rot_dim=4 : 12 x 32 bf16
    w7 = pair_rows w2 head_dim=6 rot_dim=4 : 6 x 32 bf16
    w8 = pair_rows w4 head_dim=6 rot_dim=4 layout=vector : 6 x 1 f32
    v0 = embed w0 : tokens x 32
    v1 = linear v0 w6 : tokens x 12
    v2 = linear v0 w7 bias=w8 : tokens x 6
    v3 = linear v0 w3 : tokens x 6
    v4 = rope v1 w5 heads=2 head_dim=6 rot_dim=4 neighbours=true : tokens x 12
    v5 = rope v2 w5 heads=1 head_dim=6 rot_dim=4 neighbours=true : tokens x 6
    v6 = kv_write v5 v3 layer=l0 : tokens x 0
    v7 = attention v4 v6 layer=l0 heads=2 scale=0.5 : tokens x 12
    output v7
    ");
}

#[test]
fn a_target_that_declines_keeps_the_graph() {
    let graph = graph(LAYER);
    assert_eq!(run(&graph, &TargetProfile::cpu()), graph);
}

/// A norm of each head between the product and the rotation, a weight with two uses, a value with two readers.
#[test]
fn what_others_read_keeps_its_order() {
    let shared_weight = LAYER.replace("v3 = linear v0 w3", "v3 = linear v0 w2");
    let read_twice = LAYER.replace("output v7", "output v7 v1");
    let activated = LAYER.replace("v4 = rope v1", "v4 = silu v1 : tokens x 12\n v5 = rope v4");
    let activated = activated.replace("v5 = rope v2", "v6 = rope v2").replace("v6 = kv_write v5", "v7 = kv_write v6");
    let activated = activated.replace("v7 = attention v4 v6", "v8 = attention v5 v7").replace("output v7", "output v8");
    for text in [shared_weight, read_twice, activated] {
        let after = run(&graph(&text), &TargetProfile::vulkan()).to_string();
        assert!(!after.contains("pair_rows") && !after.contains("neighbours"), "{after}");
    }
}

#[test]
fn an_order_of_rows_is_a_permutation() {
    for (head_dim, rot_dim) in [(2, 2), (6, 4), (64, 64), (80, 32), (5, 2), (4, 0)] {
        let order = RotaryPairs { head_dim, rot_dim };
        let mut rows: Vec<u32> = (0..3 * head_dim).map(|row| order.source_row(row)).collect();
        for i in 0..rot_dim / 2 {
            let at = (head_dim + 2 * i) as usize;
            assert_eq!((rows[at], rows[at + 1]), (head_dim + i, head_dim + i + rot_dim / 2));
        }
        rows.sort_unstable();
        assert_eq!(rows, (0..3 * head_dim).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(cases(48))]
    /// Not to the bit: a head's products are summed in another order.
    #[test]
    fn keeps_what_a_graph_computes(before in random::graph(), shape in random::batch_shape(), target in targets()) {
        let after = run(&before, &target);
        prop_assert!(after.verify().is_ok());
        let tensor = random::tensors(&before, shape.seed);
        let batch = shape.batch(before.kv.groups.len(), 4, 4, random::VOCAB);
        let (expected, found) = (outputs(&before, &tensor, &batch), outputs(&after, &tensor, &batch));
        for (expected, found) in expected.iter().zip(&found) {
            let error = relative_l2(&found[0].numbers, &expected[0].numbers);
            prop_assert!(error <= kernel(Arithmetic::F32, 1), "{error}\n{before}\n{after}");
        }
    }
}
