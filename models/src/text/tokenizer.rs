//! Text to ids and back: `tokenizer.json`, and the special tokens of `tokenizer_config.json`.

use super::bpe::BpeFile;
use super::grammar::LazyVocabulary;
use crate::error::{Error, Result};
use crate::files::Files;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Tokens with a role, by the role's name (`bos_token`, `eos_token`, `unk_token` ...), as text.
pub type SpecialTokens = BTreeMap<String, String>;

/// A checkpoint's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    eos_ids: Vec<u32>,
    bos_id: Option<u32>,
    /// For answers of a form.
    pub(super) vocabulary: LazyVocabulary,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where they exist, `tokenizer_config.json` and `special_tokens_map.json`.
    /// `eos_ids` are the model configuration's, to which the tokenizer's own end token is added.
    pub fn load(files: &Files, eos_ids: &[u32]) -> Result<Self> {
        const LIMIT_BYTES: u64 = 1 << 30;
        let path = files.path("tokenizer.json");
        let again = |error: String| match files.vocabulary() {
            Some(_) => {
                let what = "its tokenizer (`tokenizer.ggml.*`) cannot be used";
                Error::malformed(&path, format!("{what}: {error}; fetch the file again, or convert the model again"))
            }
            None => Error::malformed(&path, format!("not a tokenizer: {error}; fetch the file again")),
        };
        let made = match files.vocabulary() {
            Some(vocabulary) => guarded(|| vocabulary.file()?.build()),
            None => match files.text("tokenizer.json", LIMIT_BYTES)? {
                Some(text) => guarded(|| read(&text)),
                None => {
                    let (path, what) = match files.in_file() {
                        Some(file) => (file.to_path_buf(), "holds no tokenizer; take a file with one"),
                        None => (path, "no such file; text needs a tokenizer: fetch tokenizer.json of the same model"),
                    };
                    return Err(Error::Missing { path, what: format!("{what}, or pass token ids") });
                }
            },
        };
        let mut inner = made.map_err(again)?;
        // A file may carry the truncation and padding of its training; a prompt is neither cut nor filled.
        inner.with_truncation(None).map_err(|error| again(error.to_string()))?;
        inner.with_padding(None);
        let special = special_tokens(files)?;
        let id = |role: &str| special.get(role).and_then(|token| inner.token_to_id(token));
        let mut eos_ids: Vec<u32> = eos_ids.iter().copied().chain(id("eos_token")).collect();
        eos_ids.sort_unstable();
        eos_ids.dedup();
        let bos_id = id("bos_token");
        Ok(Self { inner, special, eos_ids, bos_id, vocabulary: LazyVocabulary::new() })
    }

    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
    /// Ids of a text. `add_special` adds what the tokenizer puts around a plain text, usually the begin token; text of
    /// special tokens inside `text` becomes their ids either way.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, add_special)).map_err(Error::Tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }
    /// Ids of a prompt as mlx-lm takes it: without special tokens if it already begins with the begin token.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let begun = self.special.get("bos_token").is_some_and(|bos| !bos.is_empty() && text.starts_with(bos.as_str()));
        self.encode(text, !begun)
    }
    /// Text of ids. Bytes that are no whole character become U+FFFD; unknown ids are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.inner.decode(ids, skip_special)).map_err(Error::Tokenizer)
    }
    /// The token's text in the vocabulary's own spelling.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
    /// The id of a token in the vocabulary's own spelling.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
    /// Tokens including added ones. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
    /// Ids that end a text: the configuration's and the tokenizer's, sorted.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }
    /// Id that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }
    /// Tokens with a role.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }
}

/// What is looked at before the crate `tokenizers` reads a file; that the rest is JSON too is seen on the way.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// Reads `tokenizer.json`: a model of the usual kind straight, any other by the crate's own way.
fn read(text: &str) -> tokenizers::Result<tokenizers::Tokenizer> {
    if let Ok(file) = serde_json::from_str::<BpeFile>(text) {
        check_tables(file.normalizer())?;
        check_regexes(file.rest.values())?;
        return file.build();
    }
    let Outline { normalizer, pre_tokenizer, decoder } = serde_json::from_str(text)?;
    check_tables(&normalizer)?;
    check_regexes([&normalizer, &pre_tokenizer, &decoder].into_iter())?;
    tokenizers::Tokenizer::from_bytes(text.as_bytes())
}

/// Checks SentencePiece's tables in a normalizer.
fn check_tables(normalizer: &Value) -> std::result::Result<(), String> {
    match normalizer {
        Value::Array(all) => all.iter().try_for_each(check_tables),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| match value {
            Value::String(base64) if name == "precompiled_charsmap" => check_table(base64),
            other => check_tables(other),
        }),
        _ => Ok(()),
    }
}

/// A table begins with the size of its first part in 4 bytes, for which memory is taken before it is read.
fn check_table(base64: &str) -> std::result::Result<(), String> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let n_bytes = base64.len() / 4 * 3;
    let first = base64.bytes().take(6).try_fold(0u64, |bits, byte| Some(bits << 6 | u64::from(digit(byte)?)));
    // Six digits are 36 bits.
    let size = first.map(|bits| ((bits >> 4) as u32).swap_bytes() as usize);
    match size {
        Some(size) if size >= 4 && size <= n_bytes.saturating_sub(4) => Ok(()),
        _ => Err("the table of its normalizer is not whole".into()),
    }
}

/// Regular expressions of a tokenizer. The pre-tokenizers that GGUF files name have up to 6.
const MAX_REGEXES: usize = 32;
/// What an expression repeats its parts by, all counts multiplied. Those pre-tokenizers repeat up to 3 times.
const MAX_REPEATS: u64 = 16;
/// Classes of characters of all expressions, each as often as its expression repeats its parts: one of letters is compiled to
/// some 10 kB. Those pre-tokenizers have some hundred.
const MAX_CLASSES: u64 = 1024;

/// Checks that regular expressions within values are few and small: compiled they take many times their place in a file.
fn check_regexes<'a>(values: impl Iterator<Item = &'a Value>) -> std::result::Result<(), String> {
    fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Array(all) => all.iter().for_each(|value| collect(value, found)),
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match value {
                Value::String(regex) if name == "Regex" => found.push(regex),
                other => collect(other, found),
            }),
            _ => {}
        }
    }
    let mut found = Vec::new();
    values.for_each(|value| collect(value, &mut found));
    if found.len() > MAX_REGEXES {
        return Err(format!("it has {} regular expressions; at most {MAX_REGEXES} are taken", found.len()));
    }
    let mut n_classes = 0u64;
    for regex in found {
        let repeats = repeats(regex);
        if repeats > MAX_REPEATS {
            return Err(format!("`{regex}` repeats a part more than {MAX_REPEATS} times"));
        }
        n_classes = n_classes.saturating_add(repeats.saturating_mul(classes(regex)));
    }
    if n_classes > MAX_CLASSES {
        return Err(format!("its regular expressions have more than {MAX_CLASSES} classes of characters"));
    }
    Ok(())
}

/// The greatest counts of `{n}`, `{n,}` and `{n,m}`, multiplied; not the names and numbers of `\p{L}` and `\x{3b1}`.
fn repeats(regex: &str) -> u64 {
    let count = |(at, _): (usize, &str)| {
        let named = regex[..at].strip_suffix(['p', 'P', 'x', 'u']).is_some_and(is_escaped);
        let (inner, _) = regex[at + 1..].split_once('}')?;
        inner.split(',').filter_map(|number| number.trim().parse::<u64>().ok()).max().filter(|_| !named)
    };
    regex.match_indices('{').filter_map(count).fold(1, |product, n| product.saturating_mul(n.max(1)))
}

/// Classes of characters, bracketed or named: `[`, `.`, `\p`, `\w` and the like.
fn classes(regex: &str) -> u64 {
    let is_class = |(at, found): (usize, &str)| match found {
        "[" | "." => !is_escaped(&regex[..at]),
        _ => is_escaped(&regex[..at]),
    };
    let marks = ['[', '.', 'p', 'P', 'w', 'W', 'd', 'D', 's', 'S', 'h', 'H'];
    regex.match_indices(marks).filter(|mark| is_class(*mark)).count() as u64
}

/// Whether a backslash before what follows is none of a pair.
fn is_escaped(before: &str) -> bool {
    before.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Calls the crate `tokenizers`, which panics on some files whose parts do not go together.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    // Nothing that a panic may have left half done is used again: what is read is dropped, and reading changes a cache alone.
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    done.unwrap_or_else(|_| Err("its parts do not go together".into())).map_err(|error| error.to_string())
}

/// The tokens with a role; `tokenizer_config.json` wins over `special_tokens_map.json`.
pub(crate) fn special_tokens(files: &Files) -> Result<SpecialTokens> {
    let mut tokens = SpecialTokens::new();
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = files.path(file);
        let Some(config) = files.json(file)? else {
            continue;
        };
        let Some(config) = config.as_object() else {
            return Err(Error::malformed(&path, "not a JSON object; fetch the file again"));
        };
        for (role, value) in config.iter().filter(|(role, _)| role.ends_with("_token")) {
            let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
            if let Some(text) = text {
                tokens.insert(role.clone(), text.to_owned());
            }
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_of_regular_expressions_are_counted() {
        for (regex, expected) in [
            (r"\p{N}{1,3}| ?\p{L}+", 3),
            (r"\x{3000}[\u{4e00}-\u{9999}]", 1),
            ("[0-9]{4}(a{2,}){3}", 24),
            ("a{,5}", 5),
            ("{a}{1", 1),
            (r"(\p{N}{65536}){65536}{4294967296}", u64::MAX),
            (r"\\p{65536}", 65_536),
        ] {
            assert_eq!(repeats(regex), expected, "{regex}");
        }
    }

    #[test]
    fn classes_of_regular_expressions_are_counted() {
        for (regex, expected) in [(r"[^\s\p{L}]+|\w.\.\\w\[", 5), (r"(?i:'s|'t)| ?\p{L}+\d{1,3}", 2), ("plain", 0)] {
            assert_eq!(classes(regex), expected, "{regex}");
        }
        let file = |regex: &str| serde_json::json!({ "pattern": { "Regex": regex } });
        assert!(check_regexes([file(&r"\w".repeat(1024))].iter()).is_ok());
        assert!(check_regexes([file(&r"\w".repeat(1000)), file(r"(\w\w){16}")].iter()).is_err());
    }
}
