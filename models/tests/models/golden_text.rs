//! Tokenizer, streaming and chat templates against transformers.

use crate::{golden, read_json};
use ingot_models::Files;
use ingot_models::text::chat_template::{ChatOptions, ChatTemplate, DateTime};
use ingot_models::text::detokenizer::Detokenizer;
use ingot_models::text::tokenizer::{SpecialTokens, Tokenizer};
use serde_json::Value;
use std::path::Path;

fn ids_of(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn tokenizer_encodes_and_decodes_as_transformers() {
    let Some(folder) = golden("tokenizer") else {
        return;
    };
    let tokenizer = Tokenizer::load(&Files::folder(&folder), &[2, 7]).expect("the golden tokenizer loads");
    assert_eq!(tokenizer.eos_ids(), [2, 7]);
    assert_eq!((tokenizer.bos_id(), tokenizer.vocab_size()), (Some(1), 320));
    for case in read_json(&folder.join("cases.json"))["cases"].as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        let ids = ids_of(&case["ids"]);
        assert_eq!(tokenizer.encode(text, false).expect("encodes"), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), case["decoded"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), case["decoded_skip_special"], "{text:?}");
        // Long texts carry no list of prefixes.
        for (n, decoded) in case["cumulative_decode"].as_array().into_iter().flatten().enumerate() {
            assert_eq!(tokenizer.decode(&ids[..=n], false).expect("decodes"), *decoded, "{text:?}");
        }
    }
}

/// Vocabularies of BPE are read by a shorter way than the crate `tokenizers` takes: to the same ids, for texts of any kind.
#[test]
fn tokenizers_are_those_of_the_crate() {
    let text = concat!(include_str!("../../../README.md"), include_str!("../../../ARCHITECTURE.md"));
    for name in ["tokenizer", "smollm2", "../models/bundled/ingot-tales-14m"] {
        let Some(folder) = golden(name) else { continue };
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            continue;
        }
        let own = Tokenizer::load(&Files::folder(&folder), &[]).expect("a tokenizer");
        let theirs = tokenizers::Tokenizer::from_file(&path).expect("a tokenizer");
        // Older files have their merges as texts.
        let mut older = read_json(&path);
        for merge in older["model"]["merges"].as_array_mut().into_iter().flatten().filter(|merge| merge.is_array()) {
            *merge = format!("{} {}", merge[0].as_str().expect("a text"), merge[1].as_str().expect("a text")).into();
        }
        let held = Files::held(&folder, [("tokenizer.json".to_owned(), older.to_string().into_bytes())].into());
        let older = Tokenizer::load(&held, &[]).expect("a tokenizer");
        assert_eq!(own.vocab_size(), theirs.get_vocab_size(true), "{name}");
        for line in text.lines().chain([text]) {
            let ids = theirs.encode(line, true).expect("encodes").get_ids().to_vec();
            assert_eq!(own.encode(line, true).expect("encodes"), ids, "{name}: {line:?}");
            assert_eq!(older.encode(line, true).expect("encodes"), ids, "{name} with texts: {line:?}");
        }
    }
}

#[test]
fn streamed_text_is_the_decoded_text_and_never_broken() {
    let Some(folder) = golden("tokenizer") else {
        return;
    };
    let tokenizer = Tokenizer::load(&Files::folder(&folder), &[]).expect("the golden tokenizer loads");
    let cases = read_json(&folder.join("cases.json"));
    let cases = cases["cases"].as_array().expect("a list");
    let mut all_ids = Vec::new();
    for case in cases {
        let ids = ids_of(&case["ids"]);
        for skip_special in [false, true] {
            let mut stream = Detokenizer::new(skip_special);
            let mut text = String::new();
            for (n, &id) in ids.iter().enumerate() {
                text += &stream.push(&tokenizer, id).expect("streams");
                let so_far = tokenizer.decode(&ids[..=n], skip_special).expect("decodes");
                assert_eq!(text, so_far.trim_end_matches('\u{fffd}'), "{:?} after {n}", case["text"]);
            }
            text += &stream.finish(&tokenizer).expect("streams");
            assert_eq!(text, tokenizer.decode(&ids, skip_special).expect("decodes"), "{:?}", case["text"]);
        }
        all_ids.extend(ids);
    }
    // One long text, so that the window moves many times, and bytes that never become characters.
    let broken: Vec<u32> = (68..320).rev().collect();
    all_ids.extend(broken);
    let mut stream = Detokenizer::new(false);
    let mut text: String = all_ids.iter().map(|&id| stream.push(&tokenizer, id).expect("streams")).collect();
    text += &stream.finish(&tokenizer).expect("streams");
    assert_eq!(text, tokenizer.decode(&all_ids, false).expect("decodes"));
}

fn date(text: &str) -> DateTime {
    let n = |range: std::ops::Range<usize>| text[range].parse::<u32>().expect("a number");
    DateTime {
        year: n(0..4) as i32,
        month: n(5..7),
        day: n(8..10),
        hour: n(11..13),
        minute: n(14..16),
        second: n(17..19),
    }
}

fn check_templates(path: &Path, failures: &mut Vec<String>) -> usize {
    let fixture = read_json(path);
    let mut special = SpecialTokens::new();
    for role in ["bos_token", "eos_token"] {
        if let Some(text) = fixture[role].as_str() {
            special.insert(role.into(), text.into());
        }
    }
    let template = ChatTemplate::new(fixture["template"].as_str().expect("a template"), special);
    let cases = fixture["cases"].as_array().expect("a list");
    for case in cases {
        let options = ChatOptions {
            tools: Some(case["tools"].clone()).filter(|tools| !tools.is_null()),
            add_generation_prompt: case["add_generation_prompt"].as_bool().expect("a flag"),
            continue_final_message: false,
            extra: case["kwargs"].as_object().expect("an object").clone(),
            now: date(fixture["now"].as_str().expect("a time")),
        };
        let rendered = template.render(&case["messages"], &options);
        let name = format!("{}, {}, {}", fixture["name"], case["name"], case["kwargs"]);
        match (rendered, case["expected"].as_str()) {
            (Ok(found), Some(expected)) if found == expected => {}
            (Err(_), None) => {}
            (found, expected) => failures.push(format!("{name}\n found {found:?}\n expected {expected:?}")),
        }
    }
    cases.len()
}

#[test]
fn chat_templates_render_as_in_transformers() {
    let Some(folder) = golden("chat_templates") else {
        return;
    };
    let mut failures = Vec::new();
    let mut n_cases = 0;
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    for path in files {
        n_cases += check_templates(&path, &mut failures);
    }
    assert!(failures.is_empty(), "{} of {n_cases} cases differ:\n{}", failures.len(), failures.join("\n"));
    assert!(n_cases > 400, "only {n_cases} cases");
}
