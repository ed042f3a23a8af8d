//! Answers that keep a JSON schema, a regular expression or a grammar, from a shipped model: whatever the seed and the
//! temperature, what comes out is of the form.

use ingot::{Adjust, DeviceChoice, Error, FinishReason, GenerateOptions, Grammar, LoadOptions, Model, Sampling};
use ingot_tests::shared::root;
use serde_json::{Value, json};

fn model() -> Model {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    Model::load(&root().join("models/ingot-tales-1m"), options).expect("a shipped model")
}

fn answer(model: &mut Model, grammar: Grammar, temperature: f32, seed: u64) -> (String, FinishReason) {
    let prompt = model.chat_prompt("Tell me about a dragon.").expect("a template");
    let sampling = Sampling { temperature, seed, ..Sampling::default() };
    let options = GenerateOptions { max_tokens: 600, sampling, grammar: Some(grammar), ..GenerateOptions::default() };
    let answer = model.generate(&prompt, &options, |_| true).expect("an answer");
    (answer.text, answer.finish)
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 12 },
            "age": { "type": "integer", "minimum": 0, "maximum": 900 },
            "kind": { "enum": ["red", "green \"deep\"", null, 7] },
            "hoard": { "type": "array", "items": { "$ref": "#/$defs/thing" }, "minItems": 1, "maxItems": 2 }
        },
        "required": ["name", "age", "kind", "hoard"],
        "additionalProperties": false,
        "$defs": {
            "thing": {
                "type": "object",
                "properties": { "what": { "type": "string", "pattern": "^[a-z]{1,8}$" }, "shiny": { "type": "boolean" } },
                "required": ["what"],
                "additionalProperties": false
            }
        }
    })
}

/// What the schema says, in Rust.
fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    let fits = |of: &Value| {
        let keys: Vec<&str> = of.as_object()?.keys().map(String::as_str).collect();
        let age = of["age"].as_u64()?;
        let n_chars = of["name"].as_str()?.chars().count();
        let kind = [json!("red"), json!("green \"deep\""), Value::Null, json!(7)].contains(&of["kind"]);
        let things = of["hoard"].as_array()?;
        let thing = |thing: &Value| {
            let what = thing["what"].as_str()?;
            let word = (1..=8).contains(&what.len()) && what.bytes().all(|byte| byte.is_ascii_lowercase());
            let rest =
                thing.as_object()?.iter().all(|(key, value)| key == "what" || key == "shiny" && value.is_boolean());
            Some(word && rest)
        };
        let whole = keys == ["name", "age", "kind", "hoard"] && age <= 900 && (1..=12).contains(&n_chars) && kind;
        Some(whole && (1..=2).contains(&things.len()) && things.iter().all(|of| thing(of) == Some(true)))
    };
    assert_eq!(fits(&value), Some(true), "{text:?}");
}

#[test]
fn json_fits_its_schema_whatever_the_seed_and_temperature() {
    let mut model = model();
    let mut texts = std::collections::BTreeSet::new();
    for temperature in [0.0, 0.5, 1.0, 2.0, 5.0] {
        for seed in 0..if temperature == 0.0 { 1 } else { 12 } {
            let (text, finish) = answer(&mut model, Grammar::JsonSchema(schema()), temperature, seed);
            check(&text);
            assert_eq!(finish, FinishReason::Stop, "{text:?}");
            texts.insert(text);
        }
    }
    assert!(texts.len() > 40, "seeds give different answers: {texts:?}");
}

#[test]
fn texts_match_their_expression_and_end_with_it() {
    let mut model = model();
    for seed in 0..20 {
        let regex = Grammar::Regex(r"[A-Z][a-z]{2,9}, (born|made) in 1[0-9]{3}(é|🐉)".into());
        let (text, finish) = answer(&mut model, regex, 1.5, seed);
        assert_eq!(finish, FinishReason::Stop);
        let (name, rest) = text.split_once(", ").unwrap_or_else(|| panic!("{text:?}"));
        let rest = rest.strip_prefix("born").or(rest.strip_prefix("made")).unwrap_or_else(|| panic!("{text:?}"));
        let year = rest.strip_prefix(" in 1").unwrap_or_else(|| panic!("{text:?}"));
        let year = year.strip_suffix('é').or(year.strip_suffix('🐉')).unwrap_or_else(|| panic!("{text:?}"));
        assert!(year.len() == 3 && year.bytes().all(|byte| byte.is_ascii_digit()), "{text:?}");
        assert!(name[..1].chars().all(char::is_uppercase) && (3..=10).contains(&name.len()), "{text:?}");
        assert!(name[1..].bytes().all(|byte| byte.is_ascii_lowercase()), "{text:?}");
    }
}

#[test]
fn an_answer_may_end_where_its_form_may() {
    let mut model = model();
    let grammar = "start: (word \" \")* word \".\"\nword: \"cat\" | \"dog\" | \"(\" start \")\"\n";
    let (mut n_more, mut n_deep) = (0, 0);
    for seed in 0..20 {
        let (text, finish) = answer(&mut model, Grammar::Lark(grammar.into()), 4.0, seed);
        let mut depth = 0i32;
        text.chars().for_each(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            assert!(depth >= 0, "{text:?}");
        });
        if finish == FinishReason::Stop {
            assert!(text.ends_with('.') && depth == 0, "{text:?}");
        }
        n_more += usize::from(text.contains(' '));
        n_deep += usize::from(text.contains('('));
    }
    assert!(n_more > 0 && n_deep > 0, "the grammar leaves a choice: {n_more}, {n_deep}");
    // A list that may end or go on: only the model's end token ends it, and that is allowed between words alone.
    for seed in 0..10 {
        let (text, finish) = answer(&mut model, Grammar::Regex("(very )+".into()), 1.0, seed);
        assert!(!text.is_empty() && text.len().is_multiple_of(5) && text.replace("very ", "").is_empty(), "{text:?}");
        assert!(matches!(finish, FinishReason::Stop | FinishReason::Length));
    }
}

#[test]
fn other_rules_of_the_answer_hold_beside_the_form() {
    let mut model = model();
    let prompt = model.chat_prompt("Count.").expect("a template");
    let digits = || Some(Grammar::Regex("[0-9]{8}".into()));
    let mut answer = |options: GenerateOptions| model.generate(&prompt, &options, |_| true).expect("an answer");
    let free = answer(GenerateOptions::default());
    let long = GenerateOptions { grammar: digits(), ..GenerateOptions::default() };
    let whole = answer(GenerateOptions { ignore_eos: true, ..long.clone() });
    assert!(whole.text.len() == 8 && whole.finish == FinishReason::Stop, "{whole:?}");
    // The form's end wins against a shortest length.
    let sampling = Sampling { min_tokens: 50, ..Sampling::default() };
    assert_eq!(answer(GenerateOptions { sampling, ..long.clone() }).text.len(), 8);
    let short = answer(GenerateOptions { max_tokens: 2, ..long.clone() });
    assert!(whole.text.starts_with(&short.text) && short.finish == FinishReason::Length, "{short:?}");
    let stop = whole.text[3..4].to_owned();
    let at = whole.text.find(&stop).expect("it is there");
    let stopped = answer(GenerateOptions { stop: vec![stop], ..long.clone() });
    assert_eq!((stopped.text.as_str(), stopped.finish), (&whole.text[..at], FinishReason::Stop));
    assert_eq!(answer(GenerateOptions::default()).ids, free.ids, "a form leaves nothing behind");
}

#[test]
fn a_program_chooses_among_what_fits_and_breaks_no_form() {
    let mut model = model();
    let prompt = model.chat_prompt("Count.").expect("a template");
    let digits = |adjust: Adjust, temperature| GenerateOptions {
        grammar: Some(Grammar::Regex("[0-9]{8}".into())),
        sampling: Sampling { adjust: Some(adjust), temperature, n_logprobs: Some(3), ..Sampling::default() },
        ..GenerateOptions::default()
    };
    let seven =
        *model.tokenizer().expect("it has one").encode("7", false).expect("text").last().expect("an id") as usize;
    // The program is asked first, of the whole vocabulary, and its word counts among the tokens that fit.
    let prefers = Adjust::new(move |_, logits| {
        assert!(logits.iter().all(|logit| logit.is_finite()), "nothing is dropped yet");
        logits[seven] += 1000.0;
    });
    for temperature in [0.0, 1.0] {
        let answer = model.generate(&prompt, &digits(prefers.clone(), temperature), |_| true).expect("an answer");
        assert_eq!((answer.text.as_str(), answer.finish), ("77777777", FinishReason::Stop));
        assert!(answer.logprobs.iter().all(|of| of.chosen > -1e-3), "{:?}", answer.logprobs);
    }
    // Whatever it leaves, the form is kept; where it wants nothing that fits, the model chooses.
    let unchanged = Adjust::new(|_, _| {});
    for temperature in [0.0, 1.0] {
        let of_model = model.generate(&prompt, &digits(unchanged.clone(), temperature), |_| true).expect("an answer");
        for left in [f32::NEG_INFINITY, f32::NAN, f32::INFINITY, f32::MIN, f32::MAX] {
            let fills = Adjust::new(move |_, logits| logits.fill(left));
            let answer = model.generate(&prompt, &digits(fills, temperature), |_| true).expect("an answer");
            assert!(answer.text.len() == 8 && answer.text.bytes().all(|byte| byte.is_ascii_digit()), "{answer:?}");
            if left.is_nan() || left == f32::NEG_INFINITY {
                assert_eq!(answer.ids, of_model.ids, "{left} at {temperature}");
            }
        }
    }
}

#[test]
fn forms_that_cannot_be_kept_are_refused() {
    let mut model = model();
    let prompt = model.chat_prompt("Hi").expect("a template");
    let deep = "(".repeat(3000) + &")".repeat(3000);
    for (grammar, parts) in [
        (Grammar::JsonSchema(json!({ "type": "mystery" })), &["JSON schema", "mystery"][..]),
        (Grammar::JsonSchema(json!({ "$ref": "#/$defs/none" })), &["JSON schema", "none"]),
        (Grammar::JsonSchema(json!({ "type": "integer", "minimum": 5, "maximum": 4 })), &["JSON schema"]),
        (Grammar::JsonSchema(json!([1])), &["JSON schema"]),
        (Grammar::Regex("[a-".into()), &["regular expression"]),
        (Grammar::Regex("a(?=b)".into()), &["regular expression"]),
        (Grammar::Regex(deep), &["regular expression"]),
        (Grammar::Lark("start: nothing".into()), &["grammar", "nothing"]),
        (Grammar::Lark("not a grammar".into()), &["grammar"]),
        (Grammar::Lark(String::new()), &["grammar"]),
    ] {
        let options = GenerateOptions { grammar: Some(grammar), ..GenerateOptions::default() };
        let error = model.generate(&prompt, &options, |_| true).expect_err("it is malformed");
        assert!(matches!(error, Error::Model(_)), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("cannot be used") && !message.contains('\n') && message.len() < 600, "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
    let (text, _) = answer(&mut model, Grammar::Regex("yes|no".into()), 0.0, 0);
    assert!(["yes", "no"].contains(&text.as_str()), "the model goes on: {text}");
}
