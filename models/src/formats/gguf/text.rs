//! The tokenizer and chat template of a GGUF file, as the files of a Hugging Face folder.

use super::Gguf;
use super::pre_tokenizers::PreTokenizer;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Kinds of tokens.
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;

/// `tokenizer.json` and `tokenizer_config.json`, by name. A file without a tokenizer has neither.
pub(super) fn files(file: &Gguf) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let get = |name: &str| file.metadata().get(&format!("tokenizer.ggml.{name}"));
    let model = get("model").and_then(Value::as_str).filter(|model| !matches!(*model, "none" | "no_vocab"));
    let Some(model) = model else { return Ok(files) };
    let vocabulary = Vocabulary::read(file)?;
    let tokenizer = match model {
        "gpt2" => byte_level(file, &vocabulary)?,
        "llama" => sentence_piece(file, &vocabulary)?,
        other => {
            let what = format!("tokenizers of kind `{other}` are not supported; gpt2 and llama are");
            return Err(Error::Unsupported { path: file.path().to_path_buf(), what });
        }
    };
    files.insert("tokenizer.json".into(), tokenizer.to_string().into_bytes());
    let mut config = Map::new();
    let roles = [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")];
    for (role, name) in roles {
        if let Some(token) = vocabulary.role(file, name) {
            config.insert(role.into(), token.into());
        }
    }
    if let Some(template) = file.metadata().get("tokenizer.chat_template").and_then(Value::as_str) {
        config.insert("chat_template".into(), template.into());
    }
    files.insert("tokenizer_config.json".into(), Value::Object(config).to_string().into_bytes());
    Ok(files)
}

struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<u64>,
}

impl Vocabulary {
    fn read(file: &Gguf) -> Result<Self> {
        let get = |name: &str| file.metadata().get(&format!("tokenizer.ggml.{name}")).and_then(Value::as_array);
        let wrong = |name: &str, allowed: &str| Error::Field {
            path: file.path().to_path_buf(),
            field: format!("tokenizer.ggml.{name}"),
            found: "absent or of another type".into(),
            allowed: allowed.into(),
        };
        let tokens = get("tokens").ok_or_else(|| wrong("tokens", "a list of texts"))?;
        let texts = tokens.iter().map(|token| token.as_str().map(str::to_owned));
        let tokens: Vec<String> = texts.collect::<Option<_>>().ok_or_else(|| wrong("tokens", "a list of texts"))?;
        let kinds: Vec<u64> = match get("token_type") {
            None => vec![1; tokens.len()],
            Some(kinds) => kinds.iter().map(|kind| kind.as_u64().unwrap_or(1)).collect(),
        };
        if kinds.len() != tokens.len() {
            return Err(wrong("token_type", &format!("a list of {} numbers", tokens.len())));
        }
        Ok(Self { tokens, kinds })
    }

    fn role(&self, file: &Gguf, name: &str) -> Option<String> {
        let id = file.metadata().get(&format!("tokenizer.ggml.{name}_token_id"))?.as_u64()?;
        self.tokens.get(usize::try_from(id).ok()?).cloned()
    }

    /// Tokens that are found in a text as they are.
    fn added(&self) -> Vec<Value> {
        let whole = |(id, kind): (usize, &u64)| {
            let special = matches!(*kind, CONTROL | UNKNOWN);
            (special || *kind == USER_DEFINED).then(|| {
                json!({
                    "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
        };
        self.kinds.iter().enumerate().filter_map(whole).collect()
    }

    fn ids(&self) -> Map<String, Value> {
        // Of equal texts the first counts.
        let mut ids = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(token.clone()).or_insert_with(|| id.into());
        }
        ids
    }
}

/// What is put before a text: the begin token, if the file says so or, where it is silent, `default`.
fn post_processor(file: &Gguf, vocabulary: &Vocabulary, default: bool) -> Value {
    let adds = |name: &str| file.metadata().get(&format!("tokenizer.ggml.add_{name}_token")).and_then(Value::as_bool);
    let id = |name: &str| file.metadata().get(&format!("tokenizer.ggml.{name}_token_id")).cloned();
    let bos = vocabulary.role(file, "bos").zip(id("bos")).filter(|_| adds("bos").unwrap_or(default));
    let eos = vocabulary.role(file, "eos").zip(id("eos")).filter(|_| adds("eos").unwrap_or(false));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |token: &Option<(String, Value)>, type_id: u32| {
        token.as_ref().map(|(token, _)| json!({ "SpecialToken": { "id": token, "type_id": type_id } }))
    };
    let around = |sequence: &str, type_id: u32| -> Vec<Value> {
        let own = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
        special(&bos, type_id).into_iter().chain([own]).chain(special(&eos, type_id)).collect()
    };
    let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
    let mut tokens = Map::new();
    for (token, id) in [&bos, &eos].into_iter().flatten() {
        tokens.insert(token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
    }
    json!({ "type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens })
}

/// BPE of bytes.
fn byte_level(file: &Gguf, vocabulary: &Vocabulary) -> Result<Value> {
    let pre = file.metadata().get("tokenizer.ggml.pre").and_then(Value::as_str).unwrap_or("default");
    let PreTokenizer { steps, nfc, begins } = PreTokenizer::named(pre).ok_or_else(|| {
        let known: Vec<&str> = PreTokenizer::names().collect();
        let what = format!(
            "the pre-tokenizer `{pre}` is not supported; {} are: take the model as a folder with tokenizer.json",
            known.join(", ")
        );
        Error::Unsupported { path: file.path().to_path_buf(), what }
    })?;
    let normalizer = if nfc { json!({ "type": "NFC" }) } else { Value::Null };
    let merges = file.metadata().get("tokenizer.ggml.merges").cloned().unwrap_or_else(|| json!([]));
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": vocabulary.added(),
        "normalizer": normalizer, "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
        "post_processor": post_processor(file, vocabulary, begins),
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": begins,
            "vocab": vocabulary.ids(), "merges": merges,
        },
    }))
}

/// BPE as SentencePiece does it: of all pairs that make a token, the one whose token has the greatest score.
fn sentence_piece(file: &Gguf, vocabulary: &Vocabulary) -> Result<Value> {
    let scores = file.metadata().get("tokenizer.ggml.scores").and_then(Value::as_array);
    let scores: Vec<f64> = scores.into_iter().flatten().map(|score| score.as_f64().unwrap_or(f64::MIN)).collect();
    if scores.len() != vocabulary.tokens.len() {
        return Err(Error::Field {
            path: file.path().to_path_buf(),
            field: "tokenizer.ggml.scores".into(),
            found: format!("{} numbers", scores.len()),
            allowed: format!("a list of {} numbers", vocabulary.tokens.len()),
        });
    }
    let prefix = file.metadata().get("tokenizer.ggml.add_space_prefix").and_then(Value::as_bool).unwrap_or(true);
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let prepend = json!({ "type": "Prepend", "prepend": "▁" });
    let normalizers: Vec<Value> = prefix.then_some(prepend).into_iter().chain([replace]).collect();
    let back = json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " });
    let strip = json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 });
    let decoders: Vec<Value> = [back, json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })]
        .into_iter()
        .chain(prefix.then_some(strip))
        .collect();
    let ids = vocabulary.ids();
    let merges = merges(vocabulary, &ids, &scores);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": vocabulary.added(),
        "normalizer": { "type": "Sequence", "normalizers": normalizers }, "pre_tokenizer": null,
        "post_processor": post_processor(file, vocabulary, true),
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": vocabulary.role(file, "unknown"),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": ids, "merges": merges,
        },
    }))
}

/// Every way to make a token of two others: those of greater scores first, then of longer parts.
fn merges(vocabulary: &Vocabulary, ids: &Map<String, Value>, scores: &[f64]) -> Vec<[String; 2]> {
    let mut all: Vec<(f64, &str, &str)> = Vec::new();
    for ((token, kind), score) in vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(scores) {
        // Tokens longer than any word would cost their length squared.
        if *kind != 1 && *kind != USER_DEFINED || token.len() > 512 {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                all.push((*score, left, right));
            }
        }
    }
    let n_chars = |text: &str| text.chars().count();
    all.sort_by(|a, b| {
        let order = b.0.total_cmp(&a.0);
        order.then_with(|| n_chars(b.1).cmp(&n_chars(a.1))).then_with(|| n_chars(b.2).cmp(&n_chars(a.2)))
    });
    all.into_iter().map(|(_, left, right)| [left.to_owned(), right.to_owned()]).collect()
}
