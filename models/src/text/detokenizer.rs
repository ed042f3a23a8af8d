//! Streams text from ids one at a time, for any kind of tokenizer, without ever showing half a character.

use super::tokenizer::Tokenizer;
use crate::error::Result;

/// Ids that may wait for the end of a character before they are shown broken, as they would be in a full decode.
/// No character has more than 4 bytes and no byte more than one token, but decoders may hold back more (e.g. spaces).
const MAX_PENDING_IDS: usize = 32;

/// Ids kept in front of the pending ones, so that decoders that treat the first token of a text in their own way
/// (SentencePiece drops its space) see that these are not the first.
const CONTEXT_IDS: usize = 8;

/// What has been streamed of one sequence. The texts of [`Detokenizer::push`] and [`Detokenizer::finish`], one after
/// the other, are the decode of all ids.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// `CONTEXT_IDS` or fewer that are shown, then those that are not.
    window: Vec<u32>,
    /// How many of `window` are shown.
    n_shown: usize,
    skip_special: bool,
}

impl Detokenizer {
    /// For a sequence from its first new id. `skip_special` leaves out special tokens.
    pub fn new(skip_special: bool) -> Self {
        Self { skip_special, ..Self::default() }
    }

    /// Takes an id and gives the text that it completes, perhaps none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.window.push(id);
        let text = self.pending(tokenizer)?;
        let waits = text.is_empty() || text.ends_with('\u{fffd}');
        if waits && self.window.len() - self.n_shown < MAX_PENDING_IDS {
            return Ok(String::new());
        }
        self.n_shown = self.window.len();
        self.forget(tokenizer)?;
        Ok(text)
    }

    /// Text that is still held back, broken as it may be. The next id begins anew.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let text = self.pending(tokenizer)?;
        self.window.clear();
        self.n_shown = 0;
        Ok(text)
    }

    /// What the pending ids add to the text of those before them.
    fn pending(&self, tokenizer: &Tokenizer) -> Result<String> {
        let shown = tokenizer.decode(&self.window[..self.n_shown], self.skip_special)?;
        let mut all = tokenizer.decode(&self.window, self.skip_special)?;
        // The shown text is a prefix of the whole one, except where it ends in a broken character that was shown.
        let at = shown.char_indices().zip(all.chars()).take_while(|((_, a), b)| a == b).last();
        let at = at.map_or(0, |((at, c), _)| at + c.len_utf8());
        all.drain(..at);
        Ok(all)
    }

    /// Drops old ids from the window where the rest decodes to the end of the same text.
    fn forget(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        if self.window.len() <= 2 * CONTEXT_IDS {
            return Ok(());
        }
        let all = tokenizer.decode(&self.window, self.skip_special)?;
        let at = self.window.len() - CONTEXT_IDS;
        let kept = tokenizer.decode(&self.window[at..], self.skip_special)?;
        // A cut inside a character would begin the window with a broken one.
        let whole = !kept.starts_with('\u{fffd}') && all.ends_with(&kept);
        if whole || self.window.len() > 8 * MAX_PENDING_IDS {
            self.window.drain(..at);
            self.n_shown -= at;
        }
        Ok(())
    }
}
