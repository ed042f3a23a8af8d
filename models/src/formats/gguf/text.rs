//! The tokenizer and chat template of a GGUF file, as the files of a Hugging Face folder.

use super::Gguf;
use super::pre_tokenizers::PreTokenizer;
use crate::error::{Error, Result};
use crate::text::bpe::{Bpe, Merges, Vocabulary};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Kinds of tokens.
const NORMAL: u64 = 1;
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;

/// What `tokenizer.json` is made of, and `tokenizer_config.json`. A file without a tokenizer has neither.
pub(super) fn read(file: &Gguf) -> Result<Option<(Vocabulary, Vec<u8>)>> {
    let get = |name: &str| file.metadata().get(&format!("tokenizer.ggml.{name}"));
    let model = get("model").and_then(Value::as_str).filter(|model| !matches!(*model, "none" | "no_vocab"));
    let Some(model) = model else { return Ok(None) };
    let tokens = Tokens::read(file)?;
    let vocabulary = match model {
        "gpt2" => byte_level(file, &tokens)?,
        "llama" => sentence_piece(file, &tokens)?,
        other => {
            let what = format!("tokenizers of kind `{other}` are not supported; gpt2 and llama are");
            return Err(Error::Unsupported { path: file.path().to_path_buf(), what });
        }
    };
    let mut config = Map::new();
    let roles = [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")];
    for (role, name) in roles {
        if let Some(token) = tokens.role(file, name) {
            config.insert(role.into(), token.into());
        }
    }
    if let Some(template) = file.metadata().get("tokenizer.chat_template").and_then(Value::as_str) {
        config.insert("chat_template".into(), template.into());
    }
    Ok(Some((vocabulary, Value::Object(config).to_string().into_bytes())))
}

/// The id of a token with a role, if it is one of the vocabulary. SentencePiece's has usual ones, which llama.cpp takes where a file
/// tells none; not here if the file says that they are ordinary text.
pub(super) fn role_id(metadata: &BTreeMap<String, Value>, role: &str) -> Option<u64> {
    let get = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}"));
    let n_tokens = get("tokens").and_then(Value::as_array).map(Vec::len);
    let is_known = |id: &u64| n_tokens.is_none_or(|n| *id < n as u64);
    let usual = match role {
        "unknown" => Some(0),
        "bos" => Some(1),
        "eos" => Some(2),
        _ => None,
    };
    let is_sentence_piece = get("model").and_then(Value::as_str) == Some("llama");
    let kinds = get("token_type").and_then(Value::as_array);
    let is_text = |id: &u64| kinds.and_then(|kinds| kinds.get(*id as usize)?.as_u64()) == Some(NORMAL);
    let told = get(&format!("{role}_token_id")).and_then(Value::as_u64).filter(is_known);
    told.or_else(|| usual.filter(|id| is_sentence_piece && is_known(id) && !is_text(id)))
}

struct Tokens<'a> {
    texts: Vec<&'a str>,
    kinds: Vec<u64>,
}

impl<'a> Tokens<'a> {
    fn read(file: &'a Gguf) -> Result<Self> {
        let get = |name: &str| file.metadata().get(&format!("tokenizer.ggml.{name}")).and_then(Value::as_array);
        let wrong = |name: &str, allowed: &str| Error::Field {
            path: file.path().to_path_buf(),
            field: format!("tokenizer.ggml.{name}"),
            found: "absent or of another type".into(),
            allowed: allowed.into(),
        };
        let tokens = get("tokens").ok_or_else(|| wrong("tokens", "a list of texts"))?;
        let texts: Option<Vec<&str>> = tokens.iter().map(Value::as_str).collect();
        let texts = texts.ok_or_else(|| wrong("tokens", "a list of texts"))?;
        let kinds: Vec<u64> = match get("token_type") {
            None => vec![1; texts.len()],
            Some(kinds) => kinds.iter().map(|kind| kind.as_u64().unwrap_or(1)).collect(),
        };
        if kinds.len() != texts.len() {
            return Err(wrong("token_type", &format!("a list of {} numbers", texts.len())));
        }
        Ok(Self { texts, kinds })
    }

    fn role(&self, file: &Gguf, name: &str) -> Option<&'a str> {
        let id = role_id(file.metadata(), name)?;
        self.texts.get(usize::try_from(id).ok()?).copied()
    }

    fn owned(&self) -> Vec<String> {
        self.texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// Tokens that are found in a text as they are.
    fn added(&self) -> Vec<Value> {
        let whole = |(id, kind): (usize, &u64)| {
            let special = matches!(*kind, CONTROL | UNKNOWN);
            (special || *kind == USER_DEFINED).then(|| {
                json!({
                    "id": id, "content": self.texts[id], "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
        };
        self.kinds.iter().enumerate().filter_map(whole).collect()
    }
}

/// Everything of `tokenizer.json` but the model.
fn rest(
    tokens: &Tokens<'_>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
) -> Map<String, Value> {
    let parts = [
        ("version", "1.0".into()),
        ("truncation", Value::Null),
        ("padding", Value::Null),
        ("added_tokens", tokens.added().into()),
        ("normalizer", normalizer),
        ("pre_tokenizer", pre_tokenizer),
        ("post_processor", post_processor),
        ("decoder", decoder),
    ];
    parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What is put before a text: the begin token, if the file says so or, where it is silent, `default`.
fn post_processor(file: &Gguf, known: &Tokens<'_>, default: bool) -> Value {
    let adds = |name: &str| file.metadata().get(&format!("tokenizer.ggml.add_{name}_token")).and_then(Value::as_bool);
    let id = |name: &str| role_id(file.metadata(), name);
    let bos = known.role(file, "bos").zip(id("bos")).filter(|_| adds("bos").unwrap_or(default));
    let eos = known.role(file, "eos").zip(id("eos")).filter(|_| adds("eos").unwrap_or(false));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |token: &Option<(&str, u64)>, type_id: u32| {
        token.as_ref().map(|(token, _)| json!({ "SpecialToken": { "id": token, "type_id": type_id } }))
    };
    let around = |sequence: &str, type_id: u32| -> Vec<Value> {
        let own = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
        special(&bos, type_id).into_iter().chain([own]).chain(special(&eos, type_id)).collect()
    };
    let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
    let mut tokens = Map::new();
    for (token, id) in [&bos, &eos].into_iter().flatten() {
        tokens.insert((*token).to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
    }
    json!({ "type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens })
}

/// BPE of bytes.
fn byte_level(file: &Gguf, tokens: &Tokens<'_>) -> Result<Vocabulary> {
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
    let pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": steps });
    let decoder = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let merges = file.metadata().get("tokenizer.ggml.merges").and_then(Value::as_array);
    let merges = merges.and_then(|all| {
        let text = |merge: &Value| merge.as_str().filter(|text| text.contains(' ')).map(str::to_owned);
        all.iter().map(text).collect::<Option<Vec<String>>>()
    });
    let merges = merges.ok_or_else(|| {
        let what = "`tokenizer.ggml.merges` is no list of pairs of texts, without which there is no tokenizer; convert the model again";
        Error::malformed(file.path(), what)
    })?;
    Ok(Vocabulary {
        rest: rest(tokens, normalizer, pre_tokenizer, post_processor(file, tokens, begins), decoder),
        model: Bpe { ignore_merges: begins, ..Bpe::default() },
        tokens: tokens.owned(),
        merges: Merges::Listed(merges),
    })
}

/// BPE as SentencePiece does it: of all pairs that make a token, the one whose token has the greatest score.
fn sentence_piece(file: &Gguf, tokens: &Tokens<'_>) -> Result<Vocabulary> {
    let scores = file.metadata().get("tokenizer.ggml.scores").and_then(Value::as_array);
    let scores: Vec<f64> = scores.into_iter().flatten().map(|score| score.as_f64().unwrap_or(f64::MIN)).collect();
    if scores.len() != tokens.texts.len() {
        return Err(Error::Field {
            path: file.path().to_path_buf(),
            field: "tokenizer.ggml.scores".into(),
            found: format!("{} numbers", scores.len()),
            allowed: format!("a list of {} numbers", tokens.texts.len()),
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
    let normalizer = json!({ "type": "Sequence", "normalizers": normalizers });
    let decoder = json!({ "type": "Sequence", "decoders": decoders });
    // Bytes, and tokens that are found in a text as they are, are not made of others.
    let made = |(kind, score): (&u64, f64)| matches!(*kind, NORMAL | USER_DEFINED).then_some(score);
    Ok(Vocabulary {
        rest: rest(tokens, normalizer, Value::Null, post_processor(file, tokens, true), decoder),
        model: Bpe {
            unk_token: tokens.role(file, "unknown").map(str::to_owned),
            fuse_unk: true,
            byte_fallback: true,
            ..Bpe::default()
        },
        tokens: tokens.owned(),
        merges: Merges::Scored(tokens.kinds.iter().zip(scores).map(made).collect()),
    })
}
