//! Processors, filters and temperature against mlx-lm: the same tokens kept, numbers within the fixture's tolerance.

use ingot_runtime::sample::{History, Penalty, Sampling, argmax, filter, log_softmax, process};
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// The fixture says so itself.
const TOLERANCE: f32 = 5e-5;

fn fixture() -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/sampler/sampler.json");
    if !path.exists() {
        let _ = writeln!(std::io::stderr(), "skipped: {} is absent", path.display());
        return None;
    }
    let text = std::fs::read_to_string(&path).expect("it is read");
    Some(serde_json::from_str(&text).expect("golden JSON parses"))
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
        temperature: number("temp", plain.temperature),
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

#[track_caller]
fn assert_close(found: &[f32], expected: &Value, what: &Value) {
    let expected = numbers(expected);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (id, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let close = found == expected || (found - expected).abs() <= TOLERANCE;
        assert!(close, "{what}: id {id} is {found}, not {expected}");
    }
}

fn filtered(logprobs: &[f32], sampling: &Sampling) -> Vec<f32> {
    let (mut logprobs, mut order) = (logprobs.to_vec(), Vec::new());
    filter(&mut logprobs, sampling, sampling.xtc_probability == 1.0, &mut order);
    logprobs
}

/// The distribution that is drawn from.
fn tempered(logprobs: &[f32], temperature: f32) -> Vec<f32> {
    let scaled: Vec<f32> = logprobs.iter().map(|logprob| logprob / temperature).collect();
    let mut out = Vec::new();
    log_softmax(&scaled, &mut out);
    out
}

#[test]
fn log_probabilities_and_argmax() {
    let Some(fixture) = fixture() else { return };
    for (row, logits) in fixture["logits"].as_array().expect("rows").iter().enumerate() {
        let mut logprobs = Vec::new();
        log_softmax(&numbers(logits), &mut logprobs);
        assert_close(&logprobs, &fixture["logprobs"][row], &row.into());
        assert_eq!(argmax(&logprobs), fixture["argmax"][row], "row {row}");
    }
}

#[test]
fn filters_temperature_and_whole_chains() {
    let Some(fixture) = fixture() else { return };
    let rows: Vec<Vec<f32>> = fixture["logprobs"].as_array().expect("rows").iter().map(numbers).collect();
    let row = |case: &Value| &rows[case["row"].as_u64().expect("a row") as usize];
    let mut n_cases = 0;
    for case in fixture["filters"].as_array().expect("cases") {
        let found = filtered(row(case), &sampling(&case["params"]));
        let n_kept = found.iter().filter(|logprob| logprob.is_finite()).count();
        assert_eq!(n_kept as u64, case["kept"].as_u64().expect("a count"), "{} {}", case["kind"], case["params"]);
        assert_close(&found, &case["logprobs"], &case["params"]);
        n_cases += 1;
    }
    for case in fixture["temperature"].as_array().expect("cases") {
        assert_close(&tempered(row(case), case["temp"].as_f64().expect("a number") as f32), &case["logprobs"], case);
        n_cases += 1;
    }
    for case in fixture["chains"].as_array().expect("cases") {
        let sampling = sampling(&case["params"]);
        assert_close(
            &tempered(&filtered(row(case), &sampling), sampling.temperature),
            &case["logprobs"],
            &case["params"],
        );
        n_cases += 1;
    }
    assert!(n_cases > 70, "only {n_cases} cases");
}

#[test]
fn processors_of_logits() {
    let Some(fixture) = fixture() else { return };
    let cases = fixture["processors"].as_array().expect("cases");
    for case in cases {
        let tokens = ids(&fixture["histories"][case["history"].as_str().expect("a name")]);
        let mut logits = numbers(&fixture["logits"][case["row"].as_u64().expect("a row") as usize]);
        let history = History { tokens: &tokens, n_prompt: tokens.len() / 2, stop_ids: &[] };
        process(&mut logits, &sampling(&case["params"]), &history);
        assert_close(&logits, &case["logits"], &case["params"]);
    }
    assert!(cases.len() > 50, "only {} cases", cases.len());
}
