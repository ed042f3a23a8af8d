//! The sampler's fixtures on the processor: the same tokens kept, numbers within the fixture's tolerance.

use ingot_runtime::sample::{History, Sampling, argmax, filter, log_softmax, process};
use ingot_tests::sampler_fixture::{fixture, ids, numbers, row, sampling};
use ingot_tests::tolerance::SAMPLER;
use serde_json::Value;

#[track_caller]
fn assert_close(found: &[f32], expected: &Value, what: &Value) {
    let expected = numbers(expected);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (id, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let close = found == expected || (found - expected).abs() <= SAMPLER;
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
    let row = |case: &Value| &rows[row(case)];
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
        let mut logits = numbers(&fixture["logits"][row(case)]);
        let history = History { tokens: &tokens, n_prompt: tokens.len() / 2, stop_ids: &[] };
        process(&mut logits, &sampling(&case["params"]), &history);
        assert_close(&logits, &case["logits"], &case["params"]);
    }
    assert!(cases.len() > 50, "only {} cases", cases.len());
}
