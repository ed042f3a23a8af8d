//! The tokenizer and chat template of a GGUF file, as the files of a Hugging Face folder.

use super::Gguf;
use crate::error::{Error, Result};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};

/// Kinds of tokens.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// How texts are cut into words before pairs are merged, by the names that files use.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

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
    let tokenizer = serde_json::to_vec(&tokenizer).expect("texts and numbers are written to memory");
    files.insert("tokenizer.json".into(), tokenizer);
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

/// What `tokenizer.json` says. It is written of borrowed texts: values of their own would be many times the file.
#[derive(Serialize)]
struct Tokenizer<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Added<'a>>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Bpe<'a>,
}

/// A token that is found in a text as it is.
#[derive(Serialize)]
struct Added<'a> {
    id: usize,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: Option<&'a str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "as_map")]
    vocab: Vec<(&'a str, usize)>,
    merges: Merges<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Merges<'a> {
    /// As the file has them.
    Stored(&'a Value),
    Made(Vec<[&'a str; 2]>),
}

fn as_map<S: Serializer>(pairs: &[(&str, usize)], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().copied())
}

struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
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
        let tokens = texts.ok_or_else(|| wrong("tokens", "a list of texts"))?;
        let kinds: Vec<u64> = match get("token_type") {
            None => vec![1; tokens.len()],
            Some(kinds) => kinds.iter().map(|kind| kind.as_u64().unwrap_or(1)).collect(),
        };
        if kinds.len() != tokens.len() {
            return Err(wrong("token_type", &format!("a list of {} numbers", tokens.len())));
        }
        Ok(Self { tokens, kinds })
    }

    fn role(&self, file: &Gguf, name: &str) -> Option<&'a str> {
        let id = file.metadata().get(&format!("tokenizer.ggml.{name}_token_id"))?.as_u64()?;
        self.tokens.get(usize::try_from(id).ok()?).copied()
    }

    /// Tokens that are found in a text as they are.
    fn added(&self) -> Vec<Added<'a>> {
        let whole = |(id, kind): (usize, &u64)| {
            let (content, special) = (self.tokens[id], matches!(*kind, CONTROL | UNKNOWN));
            let (single_word, lstrip, rstrip, normalized) = (false, false, false, false);
            (special || *kind == USER_DEFINED).then_some(Added {
                id,
                content,
                single_word,
                lstrip,
                rstrip,
                normalized,
                special,
            })
        };
        self.kinds.iter().enumerate().filter_map(whole).collect()
    }

    /// Tokens with their ids; of equal texts the first.
    fn ids(&self) -> Vec<(&'a str, usize)> {
        let mut seen = HashSet::new();
        self.tokens
            .iter()
            .enumerate()
            .filter(|(_, token)| seen.insert(**token))
            .map(|(id, token)| (*token, id))
            .collect()
    }
}

/// What is put before a text: the begin token, if the file says so or, where it is silent, `default`.
fn post_processor(file: &Gguf, vocabulary: &Vocabulary<'_>, default: bool) -> Value {
    let adds = |name: &str| file.metadata().get(&format!("tokenizer.ggml.add_{name}_token")).and_then(Value::as_bool);
    let id = |name: &str| file.metadata().get(&format!("tokenizer.ggml.{name}_token_id")).cloned();
    let bos = vocabulary.role(file, "bos").zip(id("bos")).filter(|_| adds("bos").unwrap_or(default));
    let eos = vocabulary.role(file, "eos").zip(id("eos")).filter(|_| adds("eos").unwrap_or(false));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |token: &Option<(&str, Value)>, type_id: u32| {
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
fn byte_level<'a>(file: &'a Gguf, vocabulary: &Vocabulary<'a>) -> Result<Tokenizer<'a>> {
    let text = |name: &str| file.metadata().get(&format!("tokenizer.ggml.{name}")).and_then(Value::as_str);
    let pre = text("pre").unwrap_or("gpt-2");
    let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let sequence = |first: Value, second: Value| json!({ "type": "Sequence", "pretokenizers": [first, second] });
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let (pre_tokenizer, normalizer, begins) = match pre {
        "gpt-2" | "gpt2" | "phi-2" | "default" => (bytes(true), Value::Null, false),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" => {
            (sequence(digits, bytes(true)), Value::Null, false)
        }
        "llama-bpe" | "llama3" | "llama-v3" => (sequence(split(LLAMA3), bytes(false)), Value::Null, true),
        "qwen2" | "deepseek-r1-qwen" | "hunyuan" => {
            (sequence(split(QWEN2), bytes(false)), json!({ "type": "NFC" }), false)
        }
        "tekken" => (sequence(split(TEKKEN), bytes(false)), Value::Null, true),
        other => {
            let what = format!(
                "the pre-tokenizer `{other}` is not known; gpt-2, smollm, starcoder, llama-bpe, qwen2 and tekken are"
            );
            return Err(Error::Unsupported { path: file.path().to_path_buf(), what });
        }
    };
    let merges = match file.metadata().get("tokenizer.ggml.merges") {
        Some(merges) => Merges::Stored(merges),
        None => Merges::Made(Vec::new()),
    };
    Ok(Tokenizer {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: vocabulary.added(),
        normalizer,
        pre_tokenizer,
        post_processor: post_processor(file, vocabulary, begins),
        decoder: bytes(true),
        model: Bpe {
            r#type: "BPE",
            dropout: (),
            unk_token: None,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: begins,
            vocab: vocabulary.ids(),
            merges,
        },
    })
}

/// BPE as SentencePiece does it: of all pairs that make a token, the one whose token has the greatest score.
fn sentence_piece<'a>(file: &'a Gguf, vocabulary: &Vocabulary<'a>) -> Result<Tokenizer<'a>> {
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
    let merges = merges(vocabulary, &scores).ok_or_else(|| Error::Field {
        path: file.path().to_path_buf(),
        field: "tokenizer.ggml.tokens".into(),
        found: "tokens that are made of one another in far too many ways".into(),
        allowed: "the vocabulary of a SentencePiece model; fetch the file again".into(),
    })?;
    Ok(Tokenizer {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: vocabulary.added(),
        normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
        pre_tokenizer: Value::Null,
        post_processor: post_processor(file, vocabulary, true),
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        model: Bpe {
            r#type: "BPE",
            dropout: (),
            unk_token: vocabulary.role(file, "unknown"),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: vocabulary.ids(),
            merges: Merges::Made(merges),
        },
    })
}

/// Most bytes of texts of merges to a byte of a vocabulary. Those of large models have 2.
const MERGE_BYTES: usize = 16;

/// Every way to make a token of two others: those of greater scores first, then of longer parts. `None` if these are out of
/// all proportion to the tokens.
fn merges<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Option<Vec<[&'a str; 2]>> {
    // What stands around a text is as much again for short ones.
    let n_bytes = |token: &str| token.len() + 8;
    let known: HashSet<&str> = vocabulary.tokens.iter().copied().collect();
    let mut room = MERGE_BYTES * vocabulary.tokens.iter().map(|token| n_bytes(token)).sum::<usize>();
    let mut all: Vec<(f64, &str, &str)> = Vec::new();
    for ((token, kind), score) in vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(scores) {
        // Tokens longer than any word would cost their length squared.
        if *kind != 1 && *kind != USER_DEFINED || token.len() > 512 {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if known.contains(left) && known.contains(right) {
                room = room.checked_sub(n_bytes(token))?;
                all.push((*score, left, right));
            }
        }
    }
    let n_chars = |text: &str| text.chars().count();
    all.sort_by(|a, b| {
        let order = b.0.total_cmp(&a.0);
        order.then_with(|| n_chars(b.1).cmp(&n_chars(a.1))).then_with(|| n_chars(b.2).cmp(&n_chars(a.2)))
    });
    Some(all.into_iter().map(|(_, left, right)| [left, right]).collect())
}
