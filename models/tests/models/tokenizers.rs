//! The kinds of tokenizer that checkpoints come with, as small ones whose pieces can be told by hand.

use crate::assert_error;
use ingot_models::Files;
use ingot_models::text::detokenizer::Detokenizer;
use ingot_models::text::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) fn load(tokenizer: &Value, config: &Value) -> Tokenizer {
    let files = [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)];
    let files: BTreeMap<_, _> =
        files.into_iter().map(|(name, json)| (name.to_owned(), json.to_string().into_bytes())).collect();
    Tokenizer::load(&Files::held(Path::new("held"), files), &[]).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn special(id: u32, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true
    })
}

/// Pieces of a text, and its text again: at once, and streamed token by token.
#[track_caller]
fn check(tokenizer: &Tokenizer, text: &str, pieces: &[&str], decoded: &str) {
    let ids = tokenizer.encode(text, false).expect("encodes");
    let found: Vec<String> = ids.iter().map(|id| tokenizer.token(*id).expect("a token")).collect();
    assert_eq!(found, pieces, "{text:?}");
    assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), decoded, "{text:?}");
    let mut stream = Detokenizer::new(true);
    let mut streamed = String::new();
    for id in &ids {
        streamed += &stream.push(tokenizer, *id).expect("streams");
        assert!(decoded.starts_with(&streamed), "{streamed:?} is not the beginning of {decoded:?}");
    }
    streamed += &stream.finish(tokenizer).expect("streams");
    assert_eq!(streamed, decoded, "{text:?}");
}

/// SentencePiece's Unigram: the pieces with the greatest sum of scores, wherever the longest ones are.
#[test]
fn unigram() {
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let vocab = json!([
        ["<unk>", 0.0],
        ["</s>", 0.0],
        ["▁", -9.0],
        ["▁ab", -5.0],
        ["c", -5.0],
        ["▁a", -2.0],
        ["bc", -2.0],
        ["▁x", -3.0],
        ["y", -3.0],
        ["▁xy", -5.0]
    ]);
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [special(0, "<unk>"), special(1, "</s>")], "normalizer": { "type": "NFKC" },
        "pre_tokenizer": metaspace, "post_processor": null, "decoder": metaspace,
        "model": { "type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false }
    });
    let tokenizer = load(&tokenizer, &json!({ "eos_token": "</s>" }));
    assert_eq!(tokenizer.eos_ids(), [1]);
    check(&tokenizer, "abc xy", &["▁a", "bc", "▁xy"], "abc xy");
    check(&tokenizer, "xyc  a", &["▁xy", "c", "▁", "▁a"], "xyc  a");
    check(&tokenizer, "ａｂc", &["▁a", "bc"], "abc");
    check(&tokenizer, "a</s>bc", &["▁a", "</s>", "▁", "bc"], "a bc");
}

/// SentencePiece's BPE as in Llama 2 and Mistral: spaces are `▁`, and what is not in the vocabulary becomes bytes.
#[test]
fn sentencepiece_bpe_with_bytes() {
    let words = ["<unk>", "<s>", "</s>", "▁", "h", "i", "▁h", "▁hi", "<0xC3>", "<0xB1>", "<0x0A>"];
    let vocab: BTreeMap<_, _> = words.iter().zip(0u32..).collect();
    let normalizers = json!([
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }
    ]);
    let decoders = json!([
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
        { "type": "ByteFallback" },
        { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 }
    ]);
    let begin = json!({ "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } });
    let single =
        json!([{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }]);
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": normalizers }, "pre_tokenizer": null,
        "post_processor": { "type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": begin },
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": [["▁", "h"], ["▁h", "i"]]
        }
    });
    let tokenizer = load(&tokenizer, &json!({ "bos_token": "<s>", "eos_token": "</s>" }));
    check(&tokenizer, "hi hi", &["▁hi", "▁hi"], "hi hi");
    check(&tokenizer, "hiñ h", &["▁hi", "<0xC3>", "<0xB1>", "▁h"], "hiñ h");
    check(&tokenizer, "h\ni", &["▁h", "<0x0A>", "i"], "h\ni");
    assert_eq!(tokenizer.encode_prompt("hi").expect("encodes"), [1, 7]);
    assert_eq!(
        tokenizer.encode_prompt("<s>hi").expect("encodes"),
        [1, 7],
        "a prompt that has begun is not begun again"
    );
}

/// WordPiece as in BERT: the longest piece that is known, its continuations marked with `##`.
#[test]
fn wordpiece() {
    let words = ["[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##in", "game", "##s", "!", "caf", "##e"];
    let vocab: BTreeMap<_, _> = words.iter().zip(0u32..).collect();
    let parts = json!([
        { "SpecialToken": { "id": "[CLS]", "type_id": 0 } },
        { "Sequence": { "id": "A", "type_id": 0 } },
        { "SpecialToken": { "id": "[SEP]", "type_id": 0 } }
    ]);
    let special_tokens = json!({
        "[CLS]": { "id": "[CLS]", "ids": [1], "tokens": ["[CLS]"] },
        "[SEP]": { "id": "[SEP]", "ids": [2], "tokens": ["[SEP]"] }
    });
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [special(0, "[UNK]"), special(1, "[CLS]"), special(2, "[SEP]")],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing", "single": parts, "pair": [], "special_tokens": special_tokens },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab
        }
    });
    let tokenizer = load(&tokenizer, &json!({}));
    check(&tokenizer, "Playing games!", &["play", "##ing", "game", "##s", "!"], "playing games!");
    check(&tokenizer, "Café", &["caf", "##e"], "cafe");
    check(&tokenizer, "game play", &["game", "play"], "game play");
    assert_eq!(tokenizer.encode("game", true).expect("encodes"), [1, 6, 2]);
    assert_eq!(tokenizer.encode("other games", false).expect("encodes"), [0, 6, 7], "an unknown word is one token");
}

/// Files that the crate which reads them panics on, or takes gigabytes for.
#[test]
fn damaged_files_are_refused() {
    let of = |text: String| {
        let files = BTreeMap::from([("tokenizer.json".to_owned(), text.into_bytes())]);
        Tokenizer::load(&Files::held(Path::new("held"), files), &[])
    };
    let with = |field: &str, value: Value| {
        let mut tokenizer = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": null, "model": { "type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]] }
        });
        tokenizer[field] = value;
        tokenizer.to_string()
    };
    let table = |base64: &str| json!({ "type": "Precompiled", "precompiled_charsmap": base64 });
    assert!(of(with("normalizer", Value::Null)).is_ok());
    assert_error(
        of(with("normalizer", Value::Null).replace("\"decoder\":", "\"decoder\"")),
        &["tokenizer.json", "expected"],
    );
    // A table of four gigabytes, one without a first part, one that is cut short, in a list and alone.
    for base64 in ["////////", "AAAAAAAAAAA=", "CAAAAAAAAAA=", "", "?"] {
        assert_error(of(with("normalizer", table(base64))), &["tokenizer.json", "not whole"]);
        let list = json!({ "type": "Sequence", "normalizers": [table(base64)] });
        assert_error(of(with("normalizer", list)), &["tokenizer.json", "not whole"]);
    }
    // What would take megabytes once it is compiled.
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    assert!(of(with("pre_tokenizer", split(r"\p{N}{1,3}|\p{L}+"))).is_ok());
    assert_error(of(with("pre_tokenizer", split(r"\p{N}{2,65536}"))), &["tokenizer.json", "repeats a part"]);
    let many = json!({ "type": "Sequence", "pretokenizers": vec![split(r"\p{L}+"); 33] });
    assert_error(of(with("pre_tokenizer", many)), &["tokenizer.json", "33 regular expressions"]);
    // A token of a template that the template does not list is seen when a text is encoded.
    let template = json!({
        "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<x>", "type_id": 0 } }], "pair": [],
        "special_tokens": {}
    });
    let read = of(with("post_processor", template));
    assert!(read.and_then(|tokenizer| tokenizer.encode("a", true)).is_err());
}
