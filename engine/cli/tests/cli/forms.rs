//! Answers of a form: `--json-schema`, `--regex` and `--grammar`.

use super::answers::chat;
use super::{fail, json, on_cpu, succeed, text};
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;

const SCHEMA: &str = r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"], "additionalProperties": false}"#;

fn answer(flags: &[&str]) -> Value {
    json(on_cpu(&[&["generate", "-p", "How many?", "--json", "-m", "200"], flags].concat()))
}

fn is_of_schema(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    value.as_object().is_some_and(|object| object.len() == 1) && value["n"].as_u64().is_some_and(|n| n < 100)
}

#[test]
fn a_schema_comes_from_a_file_from_standard_input_or_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("schema.json");
    std::fs::write(&path, SCHEMA).unwrap();
    for seed in ["1", "2", "3"] {
        let object = answer(&["--json-schema", path.to_str().unwrap(), "--temp", "2", "--seed", seed]);
        assert!(is_of_schema(object["text"].as_str().unwrap()), "{object}");
        assert_eq!(object["finish_reason"], "stop");
    }
    let as_it_is = answer(&["--json-schema", SCHEMA]);
    let mut command = on_cpu(&["generate", "-p", "How many?", "--verbose", "false", "-m", "200", "--json-schema", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(SCHEMA.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), format!("{}\n", as_it_is["text"].as_str().unwrap()));
}

#[test]
fn expressions_and_grammars() {
    assert_eq!(answer(&["--regex", "-?(yes|no)!"])["finish_reason"], "stop");
    let printed = succeed(on_cpu(&["generate", "-p", "x", "--verbose", "false", "--regex", "ab{3}c"]));
    assert_eq!(printed, "abbbc\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sum.lark");
    std::fs::write(&path, "start: NUMBER \" + \" NUMBER\nNUMBER: /[1-9][0-9]?/\n").unwrap();
    let object = answer(&["--grammar", path.to_str().unwrap()]);
    let (a, b) = object["text"].as_str().unwrap().split_once(" + ").unwrap();
    assert!(a.parse::<u8>().is_ok() && b.parse::<u8>().is_ok(), "{object}");
    // The best of what may come next, and nothing else.
    let object = answer(&["--regex", "[0-9]", "--logprobs", "3"]);
    let best = object["logprobs"][0]["best"].as_array().unwrap();
    assert!(
        best.len() == 3 && best.iter().all(|of| of["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0)),
        "{object}"
    );
}

#[test]
fn forms_that_are_none() {
    let generate = |flags: &[&str]| on_cpu(&[&["generate", "-p", "x"], flags].concat());
    fail(generate(&["--json-schema", "/no/such.json"]), 1, &["--json-schema /no/such.json", "cannot be read"]);
    fail(generate(&["--json-schema", "{\"type\":"]), 1, &["--json-schema", "not JSON"]);
    fail(generate(&["--json-schema", "{\"type\": \"mystery\"}"]), 1, &["JSON schema cannot be used", "mystery"]);
    fail(generate(&["--regex", "[a-"]), 1, &["regular expression cannot be used"]);
    fail(generate(&["--grammar", "/no/such.lark"]), 1, &["--grammar /no/such.lark"]);
    fail(generate(&["--regex", "a", "--grammar", "x.lark"]), 2, &["cannot be used with"]);
    fail(on_cpu(&["generate", "-p", "-", "--json-schema", "-"]), 1, &["standard input", "file"]);
    fail(on_cpu(&["chat", "--grammar", "-"]), 1, &["standard input", "file"]);
}

#[test]
fn a_chat_keeps_a_form_from_the_next_answer_on() {
    let (printed, errors) = chat(&[], &["/set regex (one|two), (three|four)", "Count.", "/set regex [a-", "Count."]);
    assert!(errors.lines().count() == 1 && errors.contains("regular expression"), "{errors}");
    let answers: Vec<&str> = printed.lines().filter(|line| line.contains(", t") || line.contains(", f")).collect();
    assert_eq!(answers.len(), 2, "the old form stays: {printed}");
}
