//! Greedy choices: ties, many blocks, and ids that are fed back on the device.

use crate::support::{batch, target};
use ingot_ir::graph::Op;
use ingot_ir::step::SAMPLED;
use ingot_ir::weight::Format;
use ingot_tests::random::{GraphBuilder, Shape, VOCAB};
use ingot_tests::rig::{Rig, devices, turn};
use ingot_tests::rng::Rng;
use ingot_tests::stored::StoredTensors;
use std::sync::Arc;

/// Logits come from a table of small integers, so that most rows have several greatest numbers.
#[test]
fn argmax_takes_the_lowest_of_a_tie() {
    for n_vocab in [1, 2, 33, 1023, 1024, 1025, 5000] {
        let mut b = GraphBuilder::new("argmax");
        let table = b.matrix("embed", VOCAB, n_vocab, Format::F32);
        let x = b.op(Op::Embed { parts: vec![table] });
        let logits = b.op(Op::GatherRows { x });
        let ids = b.op(Op::Argmax { x: logits });
        let graph = b.finish(vec![logits, ids]);
        let mut rng = Rng::new(u64::from(n_vocab));
        let mut numbers: Vec<f32> = (0..VOCAB * n_vocab).map(|_| rng.below(5) as f32 - 9.0).collect();
        // Some rows of equal numbers, some with one greatest number at the very end.
        for (ix, row) in numbers.chunks_exact_mut(n_vocab as usize).enumerate() {
            match ix % 4 {
                0 => row.fill(-3.0),
                1 => row[n_vocab as usize - 1] = 7.0,
                _ => {}
            }
        }
        let mut stored = StoredTensors::random(&graph, 1);
        stored.set("embed", numbers);
        let stored = Arc::new(stored);
        for device in devices() {
            let _turn = turn(&device);
            let batch = batch(&graph, &[9, 1, 30, 1, 1]);
            let mut rig = Rig::new(&graph, &stored, &device, &target(&device, &batch, 2), &batch);
            for tables in &batch.steps {
                let compared = rig.step(tables);
                assert_eq!(compared.found, compared.expected.numbers, "rows are copied");
                assert_eq!(compared.sampled, compared.expected_sampled, "{n_vocab} logits on {device:?}");
            }
        }
    }
}

/// Steps whose tokens are the ids that the step before chose.
#[test]
fn sampled_ids_are_fed_back() {
    let graph = Shape { n_layers: 2, ..Shape::llama() }.graph();
    let stored = Arc::new(StoredTensors::random(&graph, 5));
    for device in devices() {
        let _turn = turn(&device);
        // Three sequences, then one token of each.
        let mut batch =
            crate::support::ragged(&graph, &[vec![3, 7, 1], vec![1, 1, 1], vec![1, 1, 1], vec![0, 1, 0]], 9);
        for step in &mut batch.steps {
            step.rows = step.sequences.iter().map(|sequence| sequence.q_start + sequence.q_len - 1).collect();
        }
        for ix in 1..batch.steps.len() {
            let before = batch.steps[ix - 1].sequences.clone();
            let step = &mut batch.steps[ix];
            for (token, sequence) in step.tokens.iter_mut().zip(&step.sequences) {
                let row = before.iter().position(|other| other.page_row == sequence.page_row).expect("it ran before");
                token.id = SAMPLED | row as u32;
            }
        }
        let mut rig = Rig::new(&graph, &stored, &device, &target(&device, &batch, 0), &batch);
        let tolerance =
            if device.is_cpu() { ingot_tests::tolerance::CPU_LOGITS } else { ingot_tests::tolerance::GPU_LOGITS };
        for (ix, tables) in batch.steps.iter().enumerate() {
            let compared = rig.step(tables);
            let error = compared.error();
            assert!(error <= tolerance, "step {ix} on {device:?} is off by {error:.2e}");
            assert_eq!(compared.sampled, compared.expected_sampled, "step {ix} on {device:?}");
        }
    }
}
