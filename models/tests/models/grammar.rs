//! Which tokens a form allows, by walking through it at random with small vocabularies of each spelling.

use crate::tokenizers::{load, special};
use ingot_models::text::grammar::{Grammar, GrammarState};
use ingot_models::text::tokenizer::Tokenizer;
use serde_json::{Value, json};

const EOS: u32 = 1;
/// More than the vocabularies have, as embeddings are padded.
const N_VOCAB: u32 = 400;

/// SentencePiece as Llama 2 has it: bytes as `<0x0A>`, `▁` for a space.
fn pieces() -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    let words =
        ["▁", "{", "}", "\"", ":", ",", "a", "b", "c", "1", "2", "▁a", "{\"", "\":", "\":▁", "12", "▁true", "▁null"];
    let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let all = ["<unk>", "</s>", "<tool>"].into_iter().chain(words).chain(bytes.iter().map(String::as_str));
    for (id, piece) in all.enumerate() {
        vocab.insert(piece.into(), id.into());
    }
    let decoder = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" }
    ]});
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [special(0, "<unk>"), special(1, "</s>"), special(2, "<tool>")], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": { "type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>" }
    });
    load(&tokenizer, &json!({ "eos_token": "</s>" }))
}

/// Byte-level BPE as GPT-2 has it, with a special token and an added one that is none.
fn bytes() -> Tokenizer {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    let mut vocab = serde_json::Map::new();
    vocab.insert("<pad>".into(), 0.into());
    vocab.insert("</s>".into(), EOS.into());
    for byte in 0..=255u8 {
        let code = if printable(byte) { u32::from(byte) } else { next };
        next += u32::from(!printable(byte));
        vocab.insert(char::from_u32(code).expect("a character").to_string(), (u32::from(byte) + 2).into());
    }
    for (ix, word) in ["Ġtrue", "\":", "\"a", "12"].iter().enumerate() {
        vocab.insert((*word).into(), (258 + ix).into());
    }
    let mut plain = special(262, "{\"a");
    plain["special"] = false.into();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [special(0, "<pad>"), special(1, "</s>"), plain], "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null, "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] }
    });
    load(&tokenizer, &json!({ "eos_token": "</s>" }))
}

fn allowed(state: &mut GrammarState) -> Vec<u32> {
    let mut mask = Vec::new();
    state.allowed(&mut mask).expect("something fits");
    (0..32 * mask.len() as u32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

/// Ids of a whole answer, drawn at random from what is allowed.
fn walk(tokenizer: &Tokenizer, grammar: &Grammar, seed: u64) -> Vec<u32> {
    let mut state = tokenizer.begin(grammar, N_VOCAB).expect("a form");
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut ids = Vec::new();
    loop {
        let allowed = allowed(&mut state);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let id = allowed[(random % allowed.len() as u64) as usize];
        if id == EOS {
            return ids;
        }
        ids.push(id);
        if state.accept(id).expect("it is allowed") {
            return ids;
        }
        assert!(ids.len() < 2000, "{:?}", tokenizer.decode(&ids, false));
    }
}

fn schema() -> Grammar {
    Grammar::JsonSchema(json!({
        "type": "object", "additionalProperties": false, "required": ["a"],
        "properties": {
            "a": { "anyOf": [{ "type": "string", "maxLength": 5 }, { "type": "boolean" }, { "type": "null" }] },
            "bé": { "type": "integer", "minimum": -20, "maximum": 3000 }
        }
    }))
}

#[test]
fn every_walk_through_a_schema_is_json_of_it() {
    for tokenizer in [pieces(), bytes()] {
        let (mut n_strings, mut n_both) = (0, 0);
        for seed in 0..200 {
            let ids = walk(&tokenizer, &schema(), seed);
            let text = tokenizer.decode(&ids, false).expect("decodes");
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
            let object = value.as_object().unwrap_or_else(|| panic!("{text:?}"));
            let fits = |of: &Value| {
                of.as_str().is_some_and(|text| text.chars().count() <= 5) || of.is_boolean() || of.is_null()
            };
            assert!(object.get("a").is_some_and(fits), "{text:?}");
            let b = object
                .get("bé")
                .map(|of| of.as_f64().is_some_and(|b| b.fract() == 0.0 && (-20.0..=3000.0).contains(&b)));
            assert!(b != Some(false) && object.len() == 1 + usize::from(b.is_some()), "{text:?}");
            n_strings += usize::from(object["a"].is_string());
            n_both += usize::from(b.is_some());
        }
        assert!(n_strings > 5 && n_both > 5, "all of the form is reached: {n_strings}, {n_both}");
    }
}

#[test]
fn tokens_are_known_by_their_bytes_and_special_ones_never_fit() {
    for tokenizer in [pieces(), bytes()] {
        let any = Grammar::Regex("(.|\n)*".into());
        let mut state = tokenizer.begin(&any, N_VOCAB).expect("a form");
        let free = allowed(&mut state);
        assert!(free.contains(&EOS), "an empty answer matches");
        assert!(!free.contains(&0) && free.iter().all(|id| tokenizer.token(*id).is_some()), "{free:?}");
        // A character of two bytes: the first alone, then the second alone.
        let mut state = tokenizer.begin(&Grammar::Regex("é".into()), N_VOCAB).expect("a form");
        let first = allowed(&mut state);
        assert_eq!(first.len(), 1, "{first:?}");
        assert!(!state.accept(first[0]).expect("it is allowed"));
        let second = allowed(&mut state);
        assert!(second.len() == 1 && second != first);
        assert!(state.accept(second[0]).expect("it is allowed"), "the form is complete");
        assert_eq!(tokenizer.decode(&[first[0], second[0]], false).expect("decodes"), "é");
    }
    let named = pieces().begin(&Grammar::Lark("start: <tool> \"a\"".into()), N_VOCAB);
    assert_eq!(allowed(&mut named.expect("a form")), [2], "unless the grammar names it");
}

#[test]
fn a_copy_goes_its_own_way_and_what_does_not_fit_is_refused() {
    let tokenizer = bytes();
    let id = |text: &str| tokenizer.token_id(text).expect("a token");
    let mut state = tokenizer.begin(&Grammar::Regex("ab|cd".into()), N_VOCAB).expect("a form");
    let mut other = state.clone();
    assert!(!state.accept(id("a")).expect("it fits") && !other.accept(id("c")).expect("it fits"));
    assert_eq!((allowed(&mut state), allowed(&mut other)), (vec![id("b")], vec![id("d")]));
    let error = state.accept(id("d")).expect_err("it does not fit").to_string();
    assert!(!error.contains('\n'), "{error}");
    assert!(other.accept(id("d")).expect("it fits"));
    // The end token where the form has not ended.
    let mut state = tokenizer.begin(&Grammar::Regex("ab".into()), N_VOCAB).expect("a form");
    assert!(!allowed(&mut state).contains(&EOS) && state.accept(EOS).is_err());
}

#[test]
fn tokens_without_bytes_are_told() {
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": { "[UNK]": 0, "a": 1 } }
    });
    let tokenizer = load(&tokenizer, &json!({}));
    let message = tokenizer.begin(&schema(), 2).expect_err("it has no spelling").to_string();
    assert!(message.contains("WordPiece"), "{message}");
}
