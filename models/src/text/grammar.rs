//! Answers of a given form: a JSON schema, a regular expression or a grammar decides which tokens may come next.
//!
//! The crate `llguidance` parses the form and computes the tokens; here it learns a tokenizer's vocabulary as bytes.

use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;

/// The form of an answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Grammar {
    /// JSON that a schema describes. References lead within the schema (`#/$defs/name`).
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole. No look-around, no back references.
    Regex(String),
    /// Text that a context-free grammar derives, written as the Lark parser takes it, with llguidance's extensions.
    Lark(String),
}

/// White space between JSON's tokens unless the schema says otherwise (`x-guidance`): a space, or a line end and what
/// indents the next line. Where any is allowed, small models fill the context with it.
const JSON_WHITESPACE: &str = r"( |\r?\n[ \t]{0,20})";

impl Grammar {
    fn name(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "grammar",
        }
    }

    fn parsed(&self) -> TopLevelGrammar {
        let form = match self {
            Self::JsonSchema(schema) => {
                let mut schema = schema.clone();
                if let Some(object) = schema.as_object_mut()
                    && !object.contains_key("x-guidance")
                {
                    object.insert("x-guidance".into(), json!({ "whitespace_pattern": JSON_WHITESPACE }));
                }
                GrammarWithLexer::from_json_schema(schema)
            }
            Self::Regex(regex) => GrammarWithLexer::from_regex(regex),
            Self::Lark(text) => GrammarWithLexer::from_lark(text.clone()),
        };
        TopLevelGrammar::from_grammar(form)
    }
}

/// How far an answer of a form has come.
pub struct GrammarState(Matcher);

impl GrammarState {
    /// Writes the ids that may come next: id `i` is bit `i % 32` of word `i / 32`. End tokens are among them only where the
    /// answer may end.
    ///
    /// # Errors
    /// If no token fits, or if the form is too complex at this place.
    pub fn allowed(&mut self, mask: &mut Vec<u32>) -> Result<()> {
        let allowed = self.0.compute_mask().map_err(|error| Error::Grammar(one_line(&error)))?;
        mask.clear();
        mask.extend_from_slice(allowed.as_slice());
        Ok(())
    }

    /// Takes the next token; true if the answer is complete and nothing may follow.
    ///
    /// # Errors
    /// If the token does not fit.
    pub fn accept(&mut self, id: u32) -> Result<bool> {
        self.0.consume_token(id).map_err(|error| Error::Grammar(one_line(&error)))?;
        Ok(self.0.is_stopped())
    }
}

impl Clone for GrammarState {
    /// An independent state: neither waits for the other's locks.
    fn clone(&self) -> Self {
        Self(self.0.deep_clone())
    }
}

impl fmt::Debug for GrammarState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrammarState({:?})", self.0.stop_reason())
    }
}

/// A tokenizer's vocabulary as grammars see it.
pub(super) struct Vocabulary(ParserFactory);

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vocabulary({} tokens)", self.0.tok_env().tok_trie().vocab_size())
    }
}

impl Vocabulary {
    /// The vocabulary of ids below `n_vocab`. Ids without a text are never allowed; special tokens only where a grammar names
    /// them, and end tokens.
    pub(super) fn new(inner: &tokenizers::Tokenizer, eos_ids: &[u32], n_vocab: u32) -> Result<Self> {
        let decoder = inner.get_decoder().map(serde_json::to_value).and_then(Result::ok).unwrap_or(Value::Null);
        let spelling = Spelling::of(&decoder).ok_or_else(|| {
            let kind = decoder["type"].as_str().unwrap_or("no");
            Error::Grammar(format!("tokenizers with {kind} decoder cannot be held to a form; leave the form away"))
        })?;
        let added = inner.get_added_tokens_decoder();
        let word = |id: u32| {
            let bytes = match added.get(&id) {
                Some(token) if token.special => [&[TokTrie::SPECIAL_TOKEN_MARKER], token.content.as_bytes()].concat(),
                Some(token) => token.content.clone().into_bytes(),
                None => inner.id_to_token(id).map_or_else(Vec::new, |token| spelling.bytes(&token)),
            };
            if bytes.len() > MAX_WORD_BYTES { Vec::new() } else { bytes }
        };
        let words: Vec<Vec<u8>> = (0..n_vocab).map(word).collect();
        let eos_ids: Vec<u32> = eos_ids.iter().copied().filter(|id| *id < n_vocab).collect();
        let first = eos_ids.first().copied().unwrap_or(llguidance::toktrie::INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(n_vocab, first), &words);
        if !eos_ids.is_empty() {
            trie = trie.with_eos_tokens(&eos_ids);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|error| Error::Grammar(one_line(&error)))?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self(factory))
    }

    /// The beginning of an answer of a form.
    pub(super) fn begin(&self, grammar: &Grammar) -> Result<GrammarState> {
        let refused = |error| Error::Grammar(format!("the {} cannot be used: {}", grammar.name(), one_line(&error)));
        let parser = self.0.create_parser(grammar.parsed()).map_err(refused)?;
        Ok(GrammarState(Matcher::new(Ok(parser))))
    }
}

/// Longer tokens do not occur in answers of a form.
const MAX_WORD_BYTES: usize = 255;

/// How a vocabulary spells bytes.
enum Spelling {
    /// A character a byte, in GPT-2's table.
    ByteLevel,
    /// Text in which this character stands for a space, and `<0x0A>` for a byte.
    Pieces(char),
}

impl Spelling {
    fn of(decoder: &Value) -> Option<Self> {
        let mut parts = vec![decoder];
        let mut found = None;
        while let Some(part) = parts.pop() {
            match part["type"].as_str()? {
                "Sequence" => parts.extend(part["decoders"].as_array()?.iter()),
                "ByteLevel" => return Some(Self::ByteLevel),
                "Metaspace" => {
                    found = Some(Self::Pieces(part["replacement"].as_str().and_then(|text| text.chars().next())?));
                }
                "Replace" if part["content"] == " " => {
                    let mut text = part["pattern"]["String"].as_str()?.chars();
                    found = Some(Self::Pieces(text.next()?));
                }
                "ByteFallback" if found.is_none() => found = Some(Self::Pieces(' ')),
                "WordPiece" | "BPEDecoder" | "CTC" => return None,
                _ => {}
            }
        }
        found
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Self::Pieces(space) => {
                let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                match byte.filter(|digits| digits.len() == 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => vec![byte],
                    None => token.replace(*space, " ").into_bytes(),
                }
            }
        }
    }
}

/// The byte that GPT-2's table writes as this character: itself if it is printable, else the next of those from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=255 => Some(code as u8).filter(|byte| printable(*byte)),
        code => (0..=255u8).filter(|byte| !printable(*byte)).nth((code - 256) as usize),
    }
}

/// The message on one line, of which a long source that it repeats is cut off.
fn one_line(error: &impl fmt::Display) -> String {
    const MAX_CHARS: usize = 400;
    let text = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// A tokenizer's vocabulary, made when it is first needed.
pub(super) type LazyVocabulary = std::sync::OnceLock<Result<Vocabulary, String>>;

impl Tokenizer {
    /// The beginning of an answer of a form, in ids below `n_vocab`, the model's vocabulary. The first call makes tables of
    /// the vocabulary, which takes seconds of a large one.
    ///
    /// # Errors
    /// If the form is malformed or too complex, or if the tokenizer's tokens have no bytes of their own (WordPiece).
    pub fn begin(&self, grammar: &Grammar, n_vocab: u32) -> Result<GrammarState> {
        let made = self.vocabulary.get_or_init(|| {
            Vocabulary::new(self.inner(), self.eos_ids(), n_vocab).map_err(|error| match error {
                Error::Grammar(why) => why,
                other => other.to_string(),
            })
        });
        made.as_ref().map_err(|why| Error::Grammar(why.clone()))?.begin(grammar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> = (0..=0x143).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(
            [byte_of('A'), byte_of('Ġ'), byte_of('Ċ'), byte_of('é')],
            [Some(65), Some(32), Some(10), Some(0xE9)]
        );
        assert_eq!([byte_of(' '), byte_of('\u{144}'), byte_of('€')], [None; 3]);
    }

    #[test]
    fn spellings_by_decoder() {
        let bytes = |decoder: Value, token: &str| Spelling::of(&decoder).map(|spelling| spelling.bytes(token));
        let fallback = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert_eq!(bytes(fallback.clone(), "▁a▁").as_deref(), Some(&b" a "[..]));
        assert_eq!(bytes(fallback.clone(), "<0x0A>").as_deref(), Some(&b"\n"[..]));
        assert_eq!(bytes(fallback, "<0xZZ>").as_deref(), Some(&b"<0xZZ>"[..]));
        assert_eq!(bytes(json!({"type": "Metaspace", "replacement": "_"}), "_a").as_deref(), Some(&b" a"[..]));
        assert_eq!(bytes(json!({"type": "ByteLevel"}), "Ġé").as_deref(), Some(&[b' ', 0xE9][..]));
        assert!(Spelling::of(&json!({"type": "WordPiece"})).is_none() && Spelling::of(&Value::Null).is_none());
    }
}
