//! The sampler's fixtures on an adapter: what mlx-lm makes of logits, and what it leaves to be drawn.

use ingot_runtime::sample::{Penalty, Random, Sampling, gumbel};
use ingot_tests::rig::{gpus, turn};
use ingot_tests::sampling::{Ask, SamplingRig};
use ingot_tests::shared::shared;
use ingot_tests::tolerance::is_as_good;
use serde_json::Value;

/// The fixture says so itself.
const TOLERANCE: f32 = 5e-5;
/// Rows of a step, and steps of a case.
const N_ROWS: usize = 16;
const N_STEPS: u64 = 4;

fn fixture() -> Option<Value> {
    let path = shared("golden/sampler/sampler.json")?;
    Some(serde_json::from_str(&std::fs::read_to_string(path).expect("it is read")).expect("golden JSON parses"))
}

/// Numbers; `null` stands for negative infinity.
fn numbers(value: &Value) -> Vec<f32> {
    let number = |value: &Value| value.as_f64().map_or(f32::NEG_INFINITY, |number| number as f32);
    value.as_array().expect("a list").iter().map(number).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// The library's form of a case's parameters; absent ones are its defaults.
fn sampling(params: &Value) -> Sampling {
    let number = |name: &str, default: f32| params[name].as_f64().map_or(default, |number| number as f32);
    let count = |name: &str, default: u32| params[name].as_u64().map_or(default, |number| number as u32);
    let penalty = |name: &str| Penalty {
        strength: number(&format!("{name}_penalty"), 0.0),
        window: count(&format!("{name}_context_size"), Penalty::default().window),
    };
    let plain = Sampling::default();
    let bias = |(id, bias): (&String, &Value)| (id.parse().expect("an id"), bias.as_f64().expect("a number") as f32);
    Sampling {
        top_p: number("top_p", plain.top_p),
        min_p: number("min_p", plain.min_p),
        min_tokens_to_keep: count("min_tokens_to_keep", plain.min_tokens_to_keep),
        top_k: count("top_k", plain.top_k),
        xtc_probability: number("xtc_probability", plain.xtc_probability),
        xtc_threshold: number("xtc_threshold", plain.xtc_threshold),
        xtc_exempt: params.get("xtc_special_tokens").map_or(Vec::new(), ids),
        repetition: penalty("repetition"),
        presence: penalty("presence"),
        frequency: penalty("frequency"),
        logit_bias: params["logit_bias"].as_object().into_iter().flatten().map(bias).collect(),
        ..plain
    }
}

fn row(case: &Value) -> usize {
    case["row"].as_u64().expect("a row") as usize
}

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
                        (found - expected).abs() <= TOLERANCE,
                        "id {id} is {found}, not {expected}: {}",
                        case["params"]
                    );
                }
            }
        }
    }
}
