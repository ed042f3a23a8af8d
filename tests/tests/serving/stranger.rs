//! Plans from strangers on the processor: what the verifier lets pass can be loaded and run, or is refused with a
//! reason; nothing panics.

use ingot_compiler::{Options, TargetProfile, compile};
use ingot_ir::kv::Window;
use ingot_ir::plan::Plan;
use ingot_tests::foreign::run;
use ingot_tests::mutate::{EXTREMES, any_number, child, mutate, places};
use ingot_tests::random::{AFFINE4, Shape};
use ingot_tests::stored::StoredTensors;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// Good plans as JSON, with their tensors: one plain, one with two KV groups, biases and quantized matrices.
static GOOD: LazyLock<Vec<(Value, Arc<StoredTensors>)>> = LazyLock::new(|| {
    let odd_window = Window { window: 20, keep: 2 };
    let rich = Shape { n_layers: 2, odd_window, attention_bias: true, formats: [AFFINE4; 8], ..Shape::llama() };
    let good = [Shape::llama(), rich].map(|shape| {
        let graph = shape.graph();
        let target = TargetProfile { prefill_tokens: 16, prefill_q_tile: 4, ..TargetProfile::cpu() };
        let plan = compile(&graph, &target, Options::new(64)).expect("compiles");
        (serde_json::to_value(plan).expect("tables are JSON"), Arc::new(StoredTensors::random(&graph, 3)))
    });
    good.into()
});

fn tried(tree: &Value, stored: &Arc<StoredTensors>) -> Result<u64, String> {
    run(serde_json::from_value::<Plan>(tree.clone()).map_err(|error| error.to_string())?, stored)
}

#[test]
fn what_is_changed_here_runs_as_it_was() {
    for (tree, stored) in GOOD.iter() {
        assert!(tried(tree, stored).expect("runs") >= 4, "two chunks, then a token a step");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_changed_plan_panics_when_it_runs(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), any_number(), any::<prop::sample::Index>()), 1..4),
    ) {
        let (tree, stored) = &GOOD[which.index(GOOD.len())];
        let mut tree = tree.clone();
        for (place, how, number, other) in changes {
            mutate(&mut tree, &|n| place.index(n), how, number, &|n| other.index(n));
        }
        let _ = tried(&tree, stored);
    }
}

/// Every number of the kernels and of the tables' first rows, set to each extreme in turn.
#[test]
fn no_extreme_number_panics_when_it_runs() {
    let (mut n_run, mut n_refused) = (0, 0);
    for (good, stored) in GOOD.iter() {
        let kernels = good.as_object().and_then(|plan| plan.keys().position(|key| key == "kernels"));
        let is_kernel = |path: &[usize]| path.first().copied() == kernels;
        let mut paths = places(good);
        paths.retain(|path| is_kernel(path) || path.iter().skip(1).all(|ix| *ix < 6));
        let mut tree = good.clone();
        for path in &paths {
            let place = path.iter().fold(&mut tree, |value, ix| child(value, *ix));
            if !place.is_number() {
                continue;
            }
            let before = place.clone();
            for number in EXTREMES {
                *path.iter().fold(&mut tree, |value, ix| child(value, *ix)) = json!(number);
                match tried(&tree, stored) {
                    Ok(_) => n_run += 1,
                    Err(_) => n_refused += 1,
                }
            }
            *path.iter().fold(&mut tree, |value, ix| child(value, *ix)) = before;
        }
    }
    assert!(n_run > 100 && n_refused > 1000, "{n_run} ran, {n_refused} were refused");
}
