//! A tokenizer of the usual kind, BPE, in parts: read from `tokenizer.json`, or made from a vocabulary with scores and never
//! written as text unless somebody wants the file.
//!
//! The crate `tokenizers` reads any file as a tree of values first, to see of which kind it is, which takes seconds for a large
//! vocabulary. Here the model is read straight and handed over; the rest, which is small, the crate reads.

use rayon::prelude::*;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};

/// What `tokenizer.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BpeFile {
    /// Everything but the model: normalizer, added tokens and so on.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
    pub model: Bpe,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Bpe {
    pub r#type: Kind,
    pub dropout: Option<f32>,
    pub unk_token: Option<String>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub fuse_unk: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    /// Tokens and their ids, in the file's order.
    #[serde(serialize_with = "write_map", deserialize_with = "read_map")]
    pub vocab: Vec<(String, u32)>,
    #[serde(deserialize_with = "read_merges")]
    pub merges: Vec<(String, String)>,
}

/// Merges as pairs, or as texts with a space between as in older files.
fn read_merges<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
    struct Parts;
    impl<'de> Visitor<'de> for Parts {
        type Value = Merged;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("two texts, or one with a space between them")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merged, E> {
            let (left, right) = text.split_once(' ').ok_or_else(|| E::custom(format!("`{text}` is no merge")))?;
            Ok(Merged(left.to_owned(), right.to_owned()))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Merged, A::Error> {
            let left = parts.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
            let right = parts.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
            Ok(Merged(left, right))
        }
    }
    struct Merged(String, String);
    impl<'de> Deserialize<'de> for Merged {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_any(Parts)
        }
    }
    let all = Vec::<Merged>::deserialize(from)?;
    Ok(all.into_iter().map(|Merged(left, right)| (left, right)).collect())
}

/// The one kind.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Kind {
    #[default]
    #[serde(rename = "BPE")]
    Bpe,
}

fn write_map<S: Serializer>(all: &[(String, u32)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(all.iter().map(|(token, id)| (token, id)))
}

fn read_map<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, u32)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, u32)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("ids by token")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(entry) = map.next_entry()? {
                all.push(entry);
            }
            Ok(all)
        }
    }
    from.deserialize_map(Pairs)
}

impl BpeFile {
    /// The normalizer, as it is told.
    pub(super) fn normalizer(&self) -> &Value {
        self.rest.get("normalizer").unwrap_or(&Value::Null)
    }

    /// The tokenizer.
    pub(super) fn build(mut self) -> tokenizers::Result<tokenizers::Tokenizer> {
        let Bpe { dropout, unk_token, continuing_subword_prefix, end_of_word_suffix, vocab, merges, .. } = self.model;
        let mut known = Vocab::with_capacity(vocab.len());
        known.extend(vocab);
        let mut model = BPE::builder()
            .vocab_and_merges(known, merges)
            .fuse_unk(self.model.fuse_unk)
            .byte_fallback(self.model.byte_fallback)
            .ignore_merges(self.model.ignore_merges);
        if let Some(dropout) = dropout {
            model = model.dropout(dropout);
        }
        if let Some(token) = unk_token {
            model = model.unk_token(token);
        }
        if let Some(prefix) = continuing_subword_prefix {
            model = model.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = end_of_word_suffix {
            model = model.end_of_word_suffix(suffix);
        }
        // Tokens are added to the whole model: what it knows keeps its id.
        let added = self.rest.remove("added_tokens");
        let added: Vec<AddedToken> = added.map_or(Ok(Vec::new()), serde_json::from_value)?;
        self.rest.insert("model".into(), json!({ "type": "BPE", "vocab": {}, "merges": [] }));
        let mut whole: tokenizers::Tokenizer = serde_json::to_string(&self.rest)?.parse()?;
        whole.with_model(model.build()?);
        whole.add_tokens(added)?;
        Ok(whole)
    }
}

/// A vocabulary of another format, of which the parts are made when they are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    /// As in [`BpeFile::rest`].
    pub rest: Map<String, Value>,
    /// The model without tokens and merges.
    pub model: Bpe,
    /// Tokens by id; of equal ones the first counts.
    pub tokens: Vec<String>,
    pub merges: Merges,
}

/// What is known of merges.
#[derive(Clone, Debug)]
pub(crate) enum Merges {
    /// Each as a text, its parts with a space between.
    Listed(Vec<String>),
    /// As SentencePiece has it: a score a token, and none for a token that no merge makes. Of all pairs that make a token the one
    /// whose token has the greatest score is merged.
    Scored(Vec<Option<f64>>),
}

impl Vocabulary {
    /// The parts.
    ///
    /// # Errors
    /// If there are more ways to merge tokens than any vocabulary of a language has.
    pub(crate) fn file(&self) -> Result<BpeFile, String> {
        let mut known = HashMap::with_capacity(self.tokens.len());
        self.tokens.iter().zip(0u32..).for_each(|(token, id)| {
            known.entry(token.as_str()).or_insert(id);
        });
        let first = self.tokens.iter().zip(0u32..).filter(|(token, id)| known[token.as_str()] == *id);
        let vocab = first.map(|(token, id)| (token.clone(), id)).collect();
        let merges = match &self.merges {
            Merges::Listed(all) => {
                let pair = |merge: &String| {
                    let (left, right) = merge.split_once(' ').unwrap_or((merge, ""));
                    (left.to_owned(), right.to_owned())
                };
                all.iter().map(pair).collect()
            }
            Merges::Scored(scores) => merges(&self.tokens, scores, &known)?,
        };
        Ok(BpeFile { rest: self.rest.clone(), model: Bpe { vocab, merges, ..self.model.clone() } })
    }

    /// The parts as `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Vocabulary::file`].
    pub(crate) fn json(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(&self.file()?).map_err(|error| error.to_string())
    }
}

/// A way to make a token of two others.
struct Merge<'a> {
    score: f64,
    /// Characters of both.
    lengths: [usize; 2],
    pair: [&'a str; 2],
}

/// Ways to make a token of two others, on average over a large vocabulary, at most: Gemma's has two.
const MAX_MERGES: usize = 4;
/// Ways that a small one may have.
const MIN_MERGES: usize = 4096;

/// Every way to make a token of two others: those of greater scores first, then of longer parts.
fn merges(
    tokens: &[String],
    scores: &[Option<f64>],
    known: &HashMap<&str, u32>,
) -> Result<Vec<(String, String)>, String> {
    let (counter, most) = (AtomicUsize::new(0), (MAX_MERGES * tokens.len()).max(MIN_MERGES));
    let n_made = &counter;
    let of_token = |id: usize| {
        let token = tokens[id].as_str();
        // Tokens longer than any word would cost their length squared.
        let score = scores[id].filter(|_| token.len() <= 512);
        let n_chars = if score.is_some() { token.chars().count() } else { 0 };
        token.char_indices().enumerate().take(n_chars).skip(1).filter_map(move |(n_left, (at, _))| {
            let (left, right) = token.split_at(at);
            let score = score.filter(|_| known.contains_key(left) && known.contains_key(right))?;
            let has_room = n_made.fetch_add(1, Ordering::Relaxed) < most;
            has_room.then_some(Merge { score, lengths: [n_left, n_chars - n_left], pair: [left, right] })
        })
    };
    let mut all: Vec<Merge<'_>> = (0..tokens.len()).into_par_iter().flat_map_iter(of_token).collect();
    if counter.load(Ordering::Relaxed) > most {
        return Err(format!("its {} tokens are made of each other in more than {most} ways", tokens.len()));
    }
    // Equals stay in the order of their tokens.
    all.par_sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.lengths.cmp(&a.lengths)));
    Ok(all.into_iter().map(|Merge { pair: [left, right], .. }| (left.to_owned(), right.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of one letter, each made of all shorter ones: memory would grow with the square of their number.
    #[test]
    fn tokens_made_of_each_other_in_too_many_ways_are_refused() {
        let vocabulary = |n: usize| Vocabulary {
            rest: Map::new(),
            model: Bpe::default(),
            tokens: (1..=n).map(|length| "a".repeat(length)).collect(),
            merges: Merges::Scored((0..n).map(|id| Some(-(id as f64))).collect()),
        };
        assert_eq!(vocabulary(20).file().map(|file| file.model.merges.len()), Ok(190), "1 + 2 + ... + 19");
        assert!(vocabulary(200).file().is_err_and(|why| why.contains("200 tokens") && why.contains("4096 ways")));
    }
}
