//! A tokenizer and chat template as the settings of a GGUF file: the other direction of [`super::text`].

use super::pre_tokenizers::{LLAMA3, PreTokenizer, QWEN2, TEKKEN};
use super::write::Setting;
use crate::error::{Error, Result};
use crate::files::Files;
use crate::text::chat_template::ChatTemplate;
use crate::text::tokenizer::special_tokens;
use serde_json::Value;
use std::collections::BTreeMap;

/// Kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Larger tokenizers are refused.
const LIMIT_BYTES: u64 = 1 << 30;

/// The settings for a model of `n_vocab` token ids, of which `eos_ids` end a text and `bos_id` begins one, where the
/// tokenizer does not say otherwise.
///
/// # Errors
/// A tokenizer that llama.cpp has no word for.
pub(crate) fn settings(
    files: &Files,
    n_vocab: usize,
    bos_id: Option<u32>,
    eos_ids: &[u32],
) -> Result<Vec<(String, Setting)>> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let Some(text) = files.text("tokenizer.json", LIMIT_BYTES)? else {
        return Ok(vec![(key("model"), Setting::Text("none".into()))]);
    };
    let path = files.path("tokenizer.json");
    let unsupported = |what: String| Error::Unsupported { path: path.clone(), what };
    let json: Value = serde_json::from_str(&text)
        .map_err(|error| Error::malformed(&path, format!("not valid JSON: {error}; fetch the file again")))?;
    let model = &json["model"];
    if model["type"].as_str().is_some_and(|kind| kind != "BPE") || !model["vocab"].is_object() {
        let kind = model["type"].as_str().unwrap_or("without a type");
        return Err(unsupported(format!("tokenizers of kind `{kind}` cannot be written to a GGUF file; BPE can")));
    }
    let is_sentence_piece = model["byte_fallback"].as_bool() == Some(true);
    let merges = merges(model).ok_or_else(|| Error::malformed(&path, "`merges` is no list of pairs"))?;
    let vocabulary = Vocabulary::read(&json, n_vocab, is_sentence_piece).map_err(&unsupported)?;
    let mut all = Vec::new();
    let mut put = |name: &str, value: Setting| all.push((key(name), value));
    if is_sentence_piece {
        put("model", Setting::Text("llama".into()));
        put("pre", Setting::Text("default".into()));
        put("scores", Setting::F32s(scores(&vocabulary, &merges)));
        put("add_space_prefix", Setting::Bool(adds_prefix(&json)));
    } else {
        let parts = [&json["normalizer"], &json["pre_tokenizer"]].into_iter().flat_map(typed);
        let is_other = |part: &&Value| match part["type"].as_str() {
            Some("ByteLevel") => part["add_prefix_space"].as_bool() == Some(true),
            Some("NFC" | "Sequence" | "Split" | "Digits" | "Punctuation") => false,
            _ => true,
        };
        if let Some(part) = parts.into_iter().find(is_other) {
            return Err(unsupported(format!(
                "changes or cuts texts by `{part}`, which llama.cpp's byte-level tokenizers do not"
            )));
        }
        let pre = known_pre_tokenizer(&json).or_else(|| pre_tokenizer(&json["pre_tokenizer"])).ok_or_else(|| {
            let known = PreTokenizer::names().collect::<Vec<_>>().join(", ");
            unsupported(format!(
                "cuts texts into words in a way that no pre-tokenizer of llama.cpp is known for ({known})"
            ))
        })?;
        put("model", Setting::Text("gpt2".into()));
        put("pre", Setting::Text(pre.into()));
        put("merges", Setting::Texts(merges.iter().map(|(left, right)| format!("{left} {right}")).collect()));
    }
    let special = special_tokens(files)?;
    let id = |role: &str| special.get(role).and_then(|token| vocabulary.ids.get(token)).copied();
    let bos = id("bos_token").or(bos_id);
    let eos = id("eos_token").or(eos_ids.first().copied());
    // Further ids that end a text have roles of their own; there are two of them.
    let others = eos_ids.iter().copied().filter(|id| Some(*id) != eos);
    let roles = [("bos", bos), ("eos", eos), ("unknown", id("unk_token")), ("padding", id("pad_token"))];
    let roles = roles.into_iter().chain(["eot", "eom"].into_iter().zip(others.map(Some)));
    for (role, id) in roles.filter_map(|(role, id)| Some((role, id?))) {
        put(&format!("{role}_token_id"), Setting::U32(id));
    }
    let around = template(&json["post_processor"]);
    let at = |ix: Option<&Value>| ix.and_then(|piece| piece["SpecialToken"]["id"].as_str()).is_some();
    put("add_bos_token", Setting::Bool(at(around.and_then(|pieces| pieces.first()))));
    put("add_eos_token", Setting::Bool(at(around.and_then(|pieces| pieces.last()))));
    let Vocabulary { tokens, kinds, .. } = vocabulary;
    put("tokens", Setting::Texts(tokens));
    put("token_type", Setting::I32s(kinds));
    if let Some(template) = ChatTemplate::load(files)? {
        all.push(("tokenizer.chat_template".into(), Setting::Text(template.source().to_owned())));
    }
    Ok(all)
}

/// Tokens by id.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    ids: BTreeMap<String, u32>,
}

impl Vocabulary {
    fn read(json: &Value, n_vocab: usize, is_sentence_piece: bool) -> Result<Self, String> {
        let unknown = json["model"]["unk_token"].as_str();
        let mut found: BTreeMap<u32, (String, i32)> = BTreeMap::new();
        let own = json["model"]["vocab"].as_object().into_iter().flatten();
        let own = own.map(|(token, id)| {
            let kind = match token {
                token if Some(token.as_str()) == unknown => UNKNOWN,
                token if is_sentence_piece && is_byte(token) => BYTE,
                _ => NORMAL,
            };
            (id.as_u64(), token.as_str(), kind)
        });
        let added = json["added_tokens"].as_array().into_iter().flatten().map(|token| {
            let content = token["content"].as_str().unwrap_or("");
            let kind = match token["special"].as_bool() {
                Some(true) if Some(content) == unknown => UNKNOWN,
                Some(true) => CONTROL,
                _ => USER_DEFINED,
            };
            (token["id"].as_u64(), content, kind)
        });
        // An added token without a row has no meaning to the model: Gemma 3's placeholder of images in models without any.
        let has_row = |id: Option<u64>| id.is_none_or(|id| id < n_vocab as u64);
        for (id, token, kind) in own.chain(added.filter(|(id, ..)| has_row(*id))) {
            let id = id.and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < n_vocab);
            let id =
                id.ok_or_else(|| format!("token `{token}` has no id below {n_vocab}, the rows of the embedding"))?;
            found.insert(id, (token.to_owned(), kind));
        }
        // Rows without a token get a name that no text has.
        let of = |id: u32| found.get(&id).cloned().unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED));
        let (tokens, kinds) = (0..n_vocab as u32).map(of).unzip();
        let ids = found.into_iter().map(|(id, (token, _))| (token, id)).collect();
        Ok(Self { tokens, kinds, ids })
    }
}

/// Whether a token stands for a byte: `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Pairs in their order; files write them as a text or as a list of two.
fn merges(model: &Value) -> Option<Vec<(&str, &str)>> {
    fn pair(value: &Value) -> Option<(&str, &str)> {
        match value {
            Value::String(text) => text.split_once(' '),
            other => Some((other[0].as_str()?, other[1].as_str()?)),
        }
    }
    model["merges"].as_array().map_or(&[][..], Vec::as_slice).iter().map(pair).collect()
}

/// SentencePiece merges the pair whose token has the greatest score: of a token that a merge makes, the merge's place with
/// a minus; of others, less than any.
fn scores(vocabulary: &Vocabulary, merges: &[(&str, &str)]) -> Vec<f32> {
    let mut scores = vec![-(merges.len() as f32); vocabulary.tokens.len()];
    for (rank, (left, right)) in merges.iter().enumerate().rev() {
        if let Some(id) = vocabulary.ids.get(&format!("{left}{right}")) {
            scores[*id as usize] = -(rank as f32);
        }
    }
    scores
}

/// Every object within a value that has a type, the value first.
fn typed(value: &Value) -> Vec<&Value> {
    let own = value["type"].is_string().then_some(value);
    let within = ["pretokenizers", "normalizers", "processors"].into_iter().filter_map(|list| value[list].as_array());
    own.into_iter().chain(within.flatten().flat_map(typed)).collect()
}

/// Whether a space is put before a text.
fn adds_prefix(json: &Value) -> bool {
    let parts = [&json["normalizer"], &json["pre_tokenizer"]].into_iter().flat_map(typed);
    parts.into_iter().any(|part| match part["type"].as_str() {
        Some("Prepend") => true,
        Some("Metaspace") => match part["prepend_scheme"].as_str() {
            Some(scheme) => scheme != "never",
            None => part["add_prefix_space"].as_bool() != Some(false),
        },
        _ => false,
    })
}

/// llama.cpp's name of the way in which texts are cut into words, if it is told as a file of that name is read here; of several
/// the first.
fn known_pre_tokenizer(json: &Value) -> Option<&'static str> {
    let [pre_tokenizer, normalizer, model] = ["pre_tokenizer", "normalizer", "model"].map(|part| &json[part]);
    let is = |name: &&str| {
        let Some(PreTokenizer { steps, nfc, begins }) = PreTokenizer::named(name) else { return false };
        let normalizes = normalizer["type"].as_str() == Some("NFC");
        let takes_whole = model["ignore_merges"].as_bool() == Some(true);
        pre_tokenizer["pretokenizers"].as_array() == Some(&steps) && (normalizes, takes_whole) == (nfc, begins)
    };
    PreTokenizer::names().find(is)
}

/// The same of what is told otherwise.
fn pre_tokenizer(value: &Value) -> Option<&'static str> {
    let parts = typed(value);
    let kinds: Vec<&str> =
        parts.iter().filter_map(|part| part["type"].as_str()).filter(|kind| *kind != "Sequence").collect();
    let is_isolated =
        |part: &&&Value| part["behavior"].as_str() == Some("Isolated") && part["invert"].as_bool() != Some(true);
    let regex = parts.iter().filter(is_isolated).find_map(|part| part["pattern"]["Regex"].as_str());
    let bytes = parts.iter().find(|part| part["type"].as_str() == Some("ByteLevel"))?;
    let cuts = bytes["use_regex"].as_bool() != Some(false);
    match (&kinds[..], regex) {
        (["ByteLevel"], _) if cuts => Some("gpt-2"),
        (["Digits", "ByteLevel"], _)
            if cuts && parts.iter().any(|part| part["individual_digits"].as_bool() == Some(true)) =>
        {
            Some("smollm")
        }
        (["Split", "ByteLevel"], Some(LLAMA3)) if !cuts => Some("llama-bpe"),
        (["Split", "ByteLevel"], Some(QWEN2)) if !cuts => Some("qwen2"),
        (["Split", "ByteLevel"], Some(TEKKEN)) if !cuts => Some("tekken"),
        _ => None,
    }
}

/// What a post-processor puts around a single text.
fn template(value: &Value) -> Option<&Vec<Value>> {
    typed(value).into_iter().find_map(|part| part["single"].as_array())
}
