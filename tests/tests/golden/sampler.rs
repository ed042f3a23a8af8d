//! The sampler's fixtures on an adapter: what mlx-lm makes of logits, and what it leaves to be drawn.

use ingot_runtime::sample::{Random, Sampling, gumbel};
use ingot_tests::rig::{gpus, turn};
use ingot_tests::sampler_fixture::{fixture, ids, numbers, row, sampling};
use ingot_tests::sampling::{Ask, SamplingRig};
use ingot_tests::tolerance::{SAMPLER, is_as_good};
use serde_json::Value;

/// Rows of a step, and steps of a case.
const N_ROWS: usize = 16;
const N_STEPS: u64 = 4;

/// Hot draws, so that whatever stays is drawn: each must be the best of the fixture's tokens.
fn check_kept(rig: &mut SamplingRig, case: &Value, logits: &[f32]) {
    let kept = numbers(&case["logprobs"]);
    let n_kept = kept.iter().filter(|logprob| logprob.is_finite()).count();
    let mut drawn = std::collections::BTreeSet::new();
    for step in 0..N_STEPS {
        let ask = |ix: usize| Ask {
            row: row(case),
            sampling: Sampling {
                temperature: 50.0,
                seed: step * N_ROWS as u64 + ix as u64,
                ..sampling(&case["params"])
            },
            tokens: vec![0; ix],
            ..Ask::default()
        };
        let asks: Vec<Ask> = (0..N_ROWS).map(ask).collect();
        for (found, ask) in rig.choose(&asks).iter().zip(&asks) {
            let position = ask.tokens.len() as u32;
            let noise = Random::at(ask.sampling.seed, position).noise;
            let number = |id: u32| logits[id as usize] / 50.0 + gumbel(noise, id);
            let staying = (0..kept.len() as u32).filter(|id| kept[*id as usize].is_finite());
            let best = staying.max_by(|a, b| number(*a).total_cmp(&number(*b))).expect("something stays");
            assert!(kept[found.id as usize].is_finite(), "{} is drawn, but {} leaves it out", found.id, case["params"]);
            let with_logit = |id: u32| (id, logits[id as usize]);
            let is_good = is_as_good(&ask.sampling, position, with_logit(found.id), with_logit(best));
            assert!(is_good, "{} for {best}: {}", found.id, case["params"]);
            drawn.insert(found.id);
        }
    }
    assert!(drawn.len() >= n_kept.min(8) / 2, "{} of {n_kept} tokens were drawn: {}", drawn.len(), case["params"]);
}

#[test]
fn an_adapter_keeps_what_the_fixtures_keep() {
    let Some(fixture) = fixture() else { return };
    let rows: Vec<Vec<f32>> = fixture["logits"].as_array().expect("rows").iter().map(numbers).collect();
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let mut rig = SamplingRig::new(device, rows.clone(), N_ROWS as u32);
        let cases = |kind: &str| fixture[kind].as_array().expect("cases").clone();
        let all = [cases("filters"), cases("chains")].concat();
        all.iter().for_each(|case| check_kept(&mut rig, case, &rows[row(case)]));
        assert!(all.len() > 60, "only {} cases", all.len());
    }
}

#[test]
fn an_adapter_adjusts_logits_as_the_fixtures_do() {
    let Some(fixture) = fixture() else { return };
    let rows: Vec<Vec<f32>> = fixture["logits"].as_array().expect("rows").iter().map(numbers).collect();
    let cases = fixture["processors"].as_array().expect("cases");
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let mut rig = SamplingRig::new(device, rows.clone(), N_ROWS as u32);
        for cases in cases.chunks_exact(N_ROWS).chain([&cases[cases.len() - N_ROWS..]]) {
            let ask = |case: &Value| {
                let tokens = ids(&fixture["histories"][case["history"].as_str().expect("a name")]);
                let n_prompt = tokens.len() / 2;
                Ask { row: row(case), sampling: sampling(&case["params"]), tokens, n_prompt, ..Ask::default() }
            };
            let asks: Vec<Ask> = cases.iter().map(ask).collect();
            for (found, case) in rig.choose(&asks).iter().zip(cases) {
                let expected = numbers(&case["logits"]);
                assert_eq!(found.logits.len(), expected.len());
                for (id, (found, expected)) in found.logits.iter().zip(&expected).enumerate() {
                    assert!(
                        (found - expected).abs() <= SAMPLER,
                        "id {id} is {found}, not {expected}: {}",
                        case["params"]
                    );
                }
            }
        }
    }
}
