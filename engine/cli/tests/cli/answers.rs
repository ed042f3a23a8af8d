//! How answers are made and what ends them: flags of `ingot generate`, and `ingot chat`.

use super::{STORY, fail, ingot, json, on_cpu, succeed, text};
use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

const FRANCE: &str = "What is the capital of France?";

fn answer(flags: &[&str]) -> Value {
    json(on_cpu(&[&["generate", "-p", FRANCE, "--json"], flags].concat()))
}

fn ids(object: &Value) -> Vec<u64> {
    object["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn a_stop_string_ends_the_answer_before_itself() {
    let whole = answer(&[]);
    assert_eq!(whole["text"], "The capital of France is Paris.");
    // It begins and ends inside tokens.
    let cut = answer(&["--stop", "nowhere", "--stop", "pital of Fra"]);
    assert_eq!((&cut["text"], &cut["finish_reason"]), (&Value::from("The ca"), &Value::from("stop")));
    assert!(ids(&cut).len() < ids(&whole).len() && ids(&whole).starts_with(&ids(&cut)), "{cut}");
    assert_eq!(answer(&["--stop", "Paris!"])["text"], whole["text"], "what was held back is shown");
}

#[test]
fn shortest_answers_and_further_end_tokens() {
    let whole = ids(&answer(&[]));
    let long = answer(&["--min-tokens", "20", "-m", "30"]);
    assert!(ids(&long).len() > 20 && ids(&long).starts_with(&whole[..10]), "{long}");
    let short = answer(&["--extra-eos-token", "Ġof"]);
    assert_eq!((&short["text"], &short["finish_reason"]), (&Value::from("The capital"), &Value::from("stop")));
    fail(on_cpu(&["generate", "-p", "x", "--extra-eos-token", "<no such>"]), 1, &["--extra-eos-token", "<no such>"]);
}

#[test]
fn biases_and_penalties_change_what_is_chosen() {
    assert_eq!(ids(&answer(&["--logit-bias", "7=1000,9=-3", "-m", "3"])), [7, 7, 7]);
    assert_eq!(ids(&answer(&["--repetition-penalty", "1"])), ids(&answer(&[])));
    // Nothing of the last 20 tokens comes again.
    let mut found = ids(&answer(&["--frequency-penalty", "1000", "--ignore-eos", "-m", "20"]));
    let first = ids(&answer(&["--presence-penalty", "1000", "--ignore-eos", "-m", "20"]));
    assert_eq!(found, first, "what occurs at most once is penalized once");
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 20);
    // Cool enough that the top choices, which XTC excludes, are drawn.
    let draw =
        |flags: &[&str]| ids(&answer(&[&["--temp", "0.5", "--seed", "1", "-m", "20", "--ignore-eos"], flags].concat()));
    assert_ne!(draw(&[]), draw(&["--xtc-probability", "1", "--xtc-threshold", "0.05"]));
    assert_eq!(draw(&["--min-p", "1"]), draw(&["--top-k", "1"]), "both leave one token");
}

#[test]
fn log_probabilities_of_each_token() {
    let object = answer(&["--logprobs", "2"]);
    let logprobs = object["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), ids(&object).len());
    for (id, of) in ids(&object).iter().zip(logprobs) {
        let [first, second] = [0, 1].map(|rank| of["best"][rank]["logprob"].as_f64().unwrap());
        assert_eq!((of["best"][0]["id"].as_u64(), of["logprob"].as_f64()), (Some(*id), Some(first)), "greedy");
        assert!(second <= first && first <= 0.0 && of["best"].as_array().unwrap().len() == 2, "{of}");
    }
    assert_eq!(answer(&[])["logprobs"], Value::Null);
}

#[test]
fn a_response_is_gone_on_with_and_the_prompt_has_a_default() {
    let begun = answer(&["--prefill-response", "The capital of"]);
    assert_eq!(begun["text"], " France is Paris.");
    let hello = json(on_cpu(&["generate", "--json", "-m", "3"]));
    assert_eq!(ids(&hello), ids(&json(on_cpu(&["generate", "--json", "-m", "3", "-p", "hello"]))));
    // A template that the model has is not replaced.
    assert_eq!(answer(&["--use-default-chat-template"])["prompt_tokens"], 16);
    let folder = super::copy();
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    let model = folder.path().to_str().unwrap();
    let n_prompt = |flags: &[&str]| answer(&[&["--model", model, "-m", "1"], flags].concat())["prompt_tokens"].as_u64();
    assert!(n_prompt(&["--use-default-chat-template"]) > n_prompt(&[]));
    let prefill = ["generate", "-p", "x", "--model", model, "--prefill-response", "y"];
    fail(on_cpu(&prefill), 1, &["--prefill-response", "--use-default-chat-template"]);
    let chatml = [&prefill[..], &["--use-default-chat-template", "-m", "1"]].concat();
    succeed(on_cpu(&chatml));
}

#[test]
fn values_out_of_range_are_misuse() {
    for (flags, part) in [
        (&["--min-p", "2"][..], "between 0 and 1"),
        (&["--min-tokens-to-keep", "0"], "--min-tokens-to-keep"),
        (&["--xtc-threshold", "0.6"], "0.5"),
        (&["--repetition-penalty", "-1"], "positive"),
        (&["--presence-penalty", "nan"], "number"),
        (&["--logit-bias", "x"], "12=-5.5"),
        (&["--logprobs", "2"], "--json"),
        (&["--chat-template-config", "[]"], "JSON object"),
    ] {
        let output = ingot(&[&["generate", "-p", "x"], flags].concat()).output().unwrap();
        let message = text(&output.stderr);
        assert!(output.status.code() == Some(2) && message.contains(part), "{flags:?}: {message}");
    }
    fail(on_cpu(&["generate", "-p", "x", "--logit-bias", "4096=1"]), 1, &["logit-bias", "4096", "vocabulary"]);
}

/// What a chat prints for these lines, on standard output and on standard error.
pub(crate) fn chat(flags: &[&str], lines: &[&str]) -> (String, String) {
    let mut command = on_cpu(&[&["chat"], flags].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

fn n_prompts(printed: &str) -> Vec<u32> {
    let tokens = |line: &str| line.strip_prefix("Prompt: ")?.split(' ').next()?.parse().ok();
    printed.lines().filter_map(tokens).collect()
}

#[test]
fn a_chat_remembers_until_it_is_reset() {
    let lines =
        [FRANCE, "/stats", "", "And what\\", "is its river?", "/stats", "/reset", FRANCE, "/stats", "/quit", "Hi"];
    let (printed, errors) = chat(&[], &lines);
    assert_eq!(errors, "");
    let n_prompts = n_prompts(&printed);
    assert!(n_prompts.len() == 3 && n_prompts[0] == 16 && n_prompts[2] == 16, "{printed}");
    assert!(n_prompts[1] > 2 * 16, "the first exchange is part of the second prompt: {printed}");
    let n_read =
        printed.lines().find_map(|line| line.strip_prefix("Read of it: ")?.split(' ').next()?.parse::<u32>().ok());
    assert!(n_read.is_some_and(|n| n + 16 < n_prompts[1]), "the second turn reads what is new: {printed}");
    assert_eq!(printed.matches("The capital of France is Paris.\n").count(), 2, "{printed}");
}

#[test]
fn a_chat_is_saved_and_loaded_and_survives_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let path = path.to_str().unwrap();
    let mistakes =
        ["/sing", "/set temp hot", "/set model x", "/set extra-eos-token <no such>", "/load /nowhere.json", "/save"];
    let (save, load) = (format!("/save {path}"), format!("/load {path}"));
    let lines = [&["/system Be brief.", FRANCE][..], &mistakes, &[&save, "/help"]].concat();
    let (printed, errors) = chat(&[], &lines);
    let errors: Vec<_> = errors.lines().collect();
    assert_eq!(errors.len(), mistakes.len(), "{errors:?}");
    for (error, part) in errors.iter().zip(["/sing", "temp", "`model`", "<no such>", "/nowhere.json", "name a file"]) {
        assert!(error.starts_with("error: ") && error.contains(part), "{error}");
    }
    assert!(printed.contains("/reset") && printed.contains("Ctrl-C stops an answer"), "{printed}");
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(saved["system"], "Be brief.");
    assert_eq!((&saved["messages"][0]["content"], saved["messages"].as_array().unwrap().len()), (&FRANCE.into(), 2));
    let (printed, _) = chat(&[], &[&load, "Why?", "/stats"]);
    assert!(printed.contains("2 messages") && n_prompts(&printed)[0] > 2 * 16, "{printed}");
}

#[test]
fn settings_hold_from_the_next_answer_on() {
    let (printed, errors) = chat(
        &["-m", "40", "--verbose", "false"],
        &["/set stop of France", FRANCE, "/set max-tokens 1", "/stats", "Hi", "/stats"],
    );
    assert_eq!(errors, "");
    assert!(printed.contains("The capital \n"), "{printed}");
    assert!(printed.contains("Generation: 1 tokens") && printed.contains("Stopped at the limit"), "{printed}");
    // Without a value a setting is as at the start.
    let lines = [
        &["/set regex yes|no", FRANCE, "/set regex", "/reset"][..],
        &["/set stop of France", FRANCE, "/set stop", "/reset", FRANCE],
    ];
    let (printed, errors) = chat(&["-m", "40", "--verbose", "false"], &lines.concat());
    assert_eq!(errors, "");
    let answers: Vec<&str> = printed.lines().skip(1).collect();
    assert!(["yes", "no"].contains(&answers[0]), "{printed}");
    assert_eq!(answers[1..], ["The capital ", "The capital of France is Paris."]);
}

#[test]
fn a_long_chat_forgets_its_beginning() {
    let lines = [FRANCE; 5];
    let (printed, errors) = chat(&["--context", "80", "-m", "12"], &lines);
    assert_eq!(errors, "");
    assert_eq!(printed.matches("The capital of France is Paris.").count(), 5, "{printed}");
    assert!(printed.contains("80 tokens: the oldest"), "{printed}");
    let (_, errors) = chat(&["--context", "8"], &[FRANCE]);
    assert!(errors.contains("context holds 8"), "{errors}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_an_answer_and_not_the_chat() {
    let mut command = on_cpu(&["chat", "--ignore-eos", "-m", "-1", "--threads", "1"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    stdin.write_all(format!("{STORY}\n").as_bytes()).unwrap();
    // The greeting is one line; a long story follows.
    stdout.read_exact(&mut [0; 160]).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    stdin.write_all(b"/stats\n/set max-tokens 2\nHello\n/stats\n").unwrap();
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(rest.contains("Stopped by Ctrl-C"), "{rest}");
    assert!(rest.contains("Generation: 2 tokens"), "the chat goes on: {rest}");
}

#[test]
fn chat_names_what_is_missing() {
    fail(on_cpu(&["chat", "--model", "/no/such/folder"]), 1, &["/no/such/folder"]);
    fail(on_cpu(&["chat", "--extra-eos-token", "<no such>"]), 1, &["<no such>"]);
    assert!(succeed(ingot(&["chat", "--help"])).contains("--repetition-penalty"));
}

#[test]
fn a_prompt_is_read_once_and_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.safetensors");
    let file = file.to_str().unwrap();
    let text = succeed(on_cpu(&["cache-prompt", "-p", "What is the capital", "--prompt-cache-file", file]));
    assert!(text.contains("tokens") && text.contains(file), "{text}");
    let object = answer(&[]);
    let from_file = |prompt: &str, flags: &[&str]| {
        on_cpu(&[&["generate", "-p", prompt, "--json", "--prompt-cache-file", file], flags].concat())
    };
    let went_on = json(from_file(" of France?", &[]));
    assert_eq!(went_on["text"], "The capital of France is Paris.");
    assert!(went_on["cached_tokens"].as_u64() > Some(3) && object["cached_tokens"] == 0, "{went_on}");
    // The rest of the message, and the beginning of the answer.
    assert_eq!(json(from_file(" of France?", &["--prefill-response", "The capital of"]))["text"], " France is Paris.");
    fail(from_file("x", &["--kv-dtype", "f16"]), 1, &["--kv-dtype"]);
    fail(
        on_cpu(&["generate", "-p", "x", "--prompt-cache-file", "/no/such/file"]),
        1,
        &["/no/such/file", "cache-prompt"],
    );
    let nowhere = on_cpu(&["cache-prompt", "-p", "x", "--prompt-cache-file", "/no/such/folder/x.safetensors"]);
    fail(nowhere, 1, &["/no/such/folder: no such folder"]);
}

#[test]
fn a_prompts_file_tells_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.safetensors");
    let file = file.to_str().unwrap();
    let written = ["cache-prompt", "-p", "Tell me", "--prompt-cache-file", file, "--model", "ingot-tales-1m", "--json"];
    let told = json(on_cpu(&written));
    assert_eq!((&told["model"], &told["file"]), (&"ingot-tales-1m".into(), &file.into()));
    assert_eq!(told["file_bytes"], std::fs::metadata(file).unwrap().len());
    assert!(told["prompt_tokens"].as_u64() > Some(2), "{told}");
    let rest = ["generate", "-p", " a story.", "--prompt-cache-file", file, "-m", "2", "--json"];
    let object = json(on_cpu(&rest));
    assert!(object["model"].as_str().unwrap().ends_with("ingot-tales-1m"), "{object}");
    assert!(object["cached_tokens"].as_u64() > Some(2), "{object}");
    let other = on_cpu(&[&rest[..], &["--model", "ingot-tales-14m"]].concat());
    fail(other, 1, &["of another model, ingot-tales-1m", "--model ingot-tales-1m"]);
}

#[test]
fn seeds_are_whole_in_any_reader_of_json() {
    for _ in 0..3 {
        assert!(answer(&["-m", "1"])["seed"].as_u64().unwrap() < 1 << 53);
    }
    assert_eq!(answer(&["-m", "1", "--seed", "18446744073709551615"])["seed"], u64::MAX);
}

#[test]
fn a_chat_draws_the_same_each_time_and_another_answer_each_turn() {
    let flags = ["--temp", "1.2", "-m", "12", "--ignore-eos", "--verbose", "false"];
    let turns = [STORY, "/reset", STORY, "/reset", "/set seed 0", STORY];
    let (printed, errors) = chat(&flags, &turns);
    assert_eq!(errors, "");
    assert_eq!(chat(&flags, &turns).0, printed);
    let (whole, _) = chat(&["--json", "--temp", "1.2", "-m", "12", "--ignore-eos"], &turns);
    let texts: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<&Value> = texts.iter().map(|object: &Value| &object["text"]).collect();
    assert!(texts.len() == 3 && texts[0] != texts[1] && texts[0] == texts[2], "{whole}");
    assert!(printed.contains(texts[0].as_str().unwrap()), "{printed}");
}

#[test]
fn a_chat_tells_what_each_turn_cost() {
    let lines = ["/stats", FRANCE, "/stats", "/set verbose false", "/reset", FRANCE];
    let (printed, errors) = chat(&[], &lines);
    assert_eq!(errors, "");
    let figures: Vec<&str> = printed.lines().filter(|line| line.starts_with('[')).collect();
    assert!(figures.len() == 1 && figures[0].starts_with("[16 tokens read, "), "{printed}");
    assert!(figures[0].contains("generated, ") && figures[0].contains("peak memory 0."), "{printed}");
    let (printed, errors) = chat(&["--json"], &lines);
    assert_eq!(errors, "no answer yet\n");
    let objects: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 3, "{printed}");
    assert_eq!(
        (&objects[0]["text"], &objects[0]["prompt_tokens"]),
        (&"The capital of France is Paris.".into(), &16.into())
    );
    assert_eq!(objects[0], objects[1]);
}

#[test]
fn a_limited_cache_goes_on_past_the_models_context() {
    let object = answer(&["--max-kv-size", "64", "-m", "2100", "--ignore-eos", "--model", "ingot-tales-1m"]);
    assert_eq!((ids(&object).len(), &object["finish_reason"]), (2100, &Value::from("length")));
    fail(on_cpu(&["generate", "-p", "x", "--max-kv-size", "3"]), 2, &["--max-kv-size", "8 or more"]);
}
