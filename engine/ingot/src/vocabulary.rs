//! A made-up vocabulary: what the speed of forms is measured with where a model has no tokenizer.

use crate::Error;
use ingot_models::Files;
use ingot_models::text::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::path::Path;

/// A byte-level vocabulary of `n` tokens, at least 257 for all bytes, without merges: an end token, every byte, numbers, then made-up words of one to six
/// syllables, half of them after a space.
///
/// ```
/// let tokenizer = ingot::made_up_tokenizer(1000)?;
/// assert_eq!(tokenizer.decode(&tokenizer.encode("Hi, 7 dragons", false)?, true)?, "Hi, 7 dragons");
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// The tokenizer's, which has none for what is made up here.
pub fn made_up_tokenizer(n: u32) -> Result<Tokenizer, Error> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = (0x100..).filter_map(char::from_u32);
    let bytes = (0..=255u8).map(|byte| if printable(byte) { char::from(byte) } else { others.next().unwrap_or(' ') });
    let syllable = |x: u32| {
        let (head, tail) = (b"bcdfghklmnprstvw"[x as usize % 16], b"aeiou"[x as usize / 16 % 5]);
        [char::from(head), char::from(tail)]
    };
    let word = |ix: u32| {
        let hash = ix.wrapping_mul(2_654_435_761);
        let mut word = String::from(if hash & 1 == 0 { "Ġ" } else { "" });
        (0..1 + hash / 2 % 6).for_each(|at| word.extend(syllable(hash >> 8 ^ ix.rotate_left(at * 5))));
        word
    };
    let numbers = (10..1000).map(|n: u32| n.to_string());
    let mut vocab: serde_json::Map<String, Value> = serde_json::Map::new();
    let words = bytes.map(String::from).chain(numbers).chain((0..).map(word));
    for word in std::iter::once("</s>".to_owned()).chain(words) {
        if vocab.len() as u32 == n {
            break;
        }
        let id = vocab.len();
        vocab.entry(word).or_insert_with(|| id.into());
    }
    let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let end = json!({ "id": 0, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] }
    });
    let files = [("tokenizer.json".to_owned(), file.to_string().into_bytes())];
    Ok(Tokenizer::load(&Files::held(Path::new("made up"), files.into()), &[0])?)
}
