//! The oracle against arithmetic by hand, and against itself: however a prompt is cut into steps, the logits are the same.

use crate::support::graph;
use ingot_ir::step::StepTables;
use ingot_tests::interpreter::{Interpreter, State};
use ingot_tests::random::{self, BatchShape};
use ingot_tests::tolerance::relative_l2;
use proptest::prelude::*;

fn tokens(ids: &[u32]) -> StepTables {
    let mut step = StepTables::default();
    step.push_sequence(ids.iter().copied(), 0, 0);
    step.rows = vec![0];
    step
}

#[test]
fn ops_by_hand() {
    let text = "graph by_hand
         w0 = tensor table : 2 x 4 f32
         w1 = inline 1.0,1.0,2.0,2.0 : 4 x 1 f32
         w2 = rows w0 first=1 : 1 x 4 f32
         w3 = interleave w0 w0 : 4 x 4 f32
         w4 = inline 0.5 : 1 x 1 f32
         v0 = embed w2 w0 : tokens x 4
         v1 = rms_norm v0 w1 eps=0.0 : tokens x 4
         v2 = linear v0 w2 bias=w4 : tokens x 1
         v3 = linear v0 w3 : tokens x 4
         v4 = silu_mul_pairs v3 : tokens x 2
         v5 = rope v0 w4 heads=1 head_dim=4 rot_dim=2 : tokens x 4
         v6 = slice v0 at=1 : tokens x 2
         v7 = concat v6 v2 : tokens x 3
         v8 = argmax v0 : tokens x 1
         v9 = gelu v2 : tokens x 1
         output v0";
    let graph = graph(text);
    let interpreter = Interpreter::new(&graph, &|_| vec![1.0, 2.0, 3.0, 4.0, 1.0, -1.0, 1.0, -1.0]);
    // Of the split table, row 0 is the first part's, row 1 the second's first.
    let values = interpreter.step(&tokens(&[0, 1]), &mut State::default());
    let row = |v: u32, row| values[ingot_ir::graph::ValueId(v)].row(row).to_vec();
    assert_eq!(row(0, 0), [1.0, -1.0, 1.0, -1.0]);
    assert_eq!(row(0, 1), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(row(1, 0), [1.0, -1.0, 2.0, -2.0]);
    assert_eq!(row(2, 0), [4.5]);
    assert_eq!(row(3, 1), [30.0, 30.0, -2.0, -2.0]);
    assert!((row(4, 1)[1] - 4.0 / (1.0 + 2f32.exp())).abs() < 1e-6);
    assert_eq!(row(5, 0), row(0, 0), "position 0 is not rotated");
    let (sin, cos) = 0.5f32.sin_cos();
    assert!(relative_l2(&row(5, 1), &[cos - 2.0 * sin, 2.0 * cos + sin, 3.0, 4.0]) < 1e-6);
    assert_eq!(row(7, 1), [2.0, 3.0, -1.5]);
    assert_eq!(row(8, 1)[0].to_bits(), 3);
    assert_eq!(row(8, 0)[0].to_bits(), 0, "the lowest id on a tie");
    assert!((row(9, 0)[0] - 4.499_97).abs() < 1e-3);
}

#[test]
fn a_latent_s_values_are_the_first_of_its_keys() {
    let text = "graph latent
         g0 = kv_group heads=1 k=4 v=2 latent=true
         l0 = kv_layer g0
         w0 = tensor table : 2 x 4 f32
         v0 = embed w0 : tokens x 4
         v1 = kv_write v0 layer=l0 : tokens x 0
         v2 = attention v0 v1 layer=l0 heads=1 scale=0.0 : tokens x 2
         output v2";
    let graph = graph(text);
    let interpreter = Interpreter::new(&graph, &|_| vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let out = interpreter.logits(&tokens(&[0, 1]), &mut State::default());
    assert_eq!(out.row(0), [1.0, 2.0]);
    assert_eq!(out.row(1), [3.0, 4.0], "without scores, the mean");
}

proptest! {
    #![proptest_config(crate::support::cases(48))]
    /// A sequence's logits depend on its own tokens alone: not on the cut into steps, nor on other sequences.
    #[test]
    fn the_cut_into_steps_does_not_matter(graph in random::graph(), shape in random::batch_shape()) {
        let tensor = random::tensors(&graph, shape.seed);
        let interpreter = Interpreter::new(&graph, &tensor);
        let batch = shape.batch(graph.kv.groups.len(), 4, 4, random::VOCAB);
        let mut by_row: std::collections::BTreeMap<u32, (Vec<u32>, Vec<f32>)> = Default::default();
        let mut state = State::default();
        for step in &batch.steps {
            let logits = interpreter.logits(step, &mut state);
            for (ix, token) in step.tokens.iter().enumerate() {
                let entry = by_row.entry(step.sequences[token.sequence as usize].page_row).or_default();
                entry.0.push(token.id);
                entry.1.extend(logits.row(ix));
            }
        }
        for (ids, found) in by_row.values() {
            let alone = interpreter.logits(&tokens(ids), &mut State::default());
            prop_assert!(alone.numbers == *found);
        }
    }
}

#[test]
fn sampled_ids_feed_the_next_step() {
    let graph = random::Shape::llama().graph();
    let tensor = random::tensors(&graph, 1);
    let interpreter = Interpreter::new(&graph, &tensor);
    let mut state = State::default();
    interpreter.step(&tokens(&[3]), &mut state);
    let sampled = state.sampled[0];
    let mut fed = StepTables::default();
    fed.push_sequence([ingot_ir::step::SAMPLED], 1, 0);
    let mut named = StepTables::default();
    named.push_sequence([sampled], 1, 0);
    let mut other = state.clone();
    assert_eq!(interpreter.logits(&fed, &mut state), interpreter.logits(&named, &mut other));
}

/// Batches differ in what the tests are about: chunks, single tokens, pauses.
#[test]
fn random_batches_are_ragged() {
    let shape = BatchShape { q_lens: vec![vec![5, 1, 0], vec![1, 0, 7], vec![3, 1, 1]], seed: 4 };
    let batch = shape.batch(2, 4, 4, 8);
    assert_eq!(batch.steps.len(), 3);
    assert_eq!(batch.steps[2].sequences.len(), 3);
    assert!(batch.page_tables.iter().all(|table| table.contains(&u32::MAX)));
    assert!(batch.page_tables[0] != batch.page_tables[1]);
}
