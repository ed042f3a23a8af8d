//! Reading access to a step block: header, tokens, sequences, rows, attention tiles and KV slots as packed words.

const N_HEADER_WORDS: usize = 16;

/// Bit of a token's id that says: the id is `sampled[low bits]`, written by an earlier step.
pub const SAMPLED_ID: u32 = 1 << 31;

/// One token of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Vocabulary id, or with [`SAMPLED_ID`] an index into the sampled ids.
    pub id: u32,
    /// Position in its sequence.
    pub position: u32,
    /// Index of its sequence.
    pub sequence: u32,
}

/// One sequence of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// First token of the step that belongs to it.
    pub q_start: u32,
    /// Number of its tokens in the step.
    pub q_len: u32,
    /// KV tokens, those of this step included.
    pub kv_len: u32,
    /// Row of the page table.
    pub page_row: u32,
}

/// One attention tile of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Index of the sequence.
    pub sequence: u32,
    /// Which run of Q_TILE queries of that sequence.
    pub q_tile: u32,
    /// Which part of the keys.
    pub kv_split: u32,
    /// Into how many parts the keys are split.
    pub n_splits: u32,
}

/// Which token a row of a kernel stands for.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Row r is token r; so many tokens.
    All(usize),
    /// Row r is token `rows[r]`.
    Sampled(&'a [u32]),
}

impl Rows<'_> {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Rows::All(n) => *n,
            Rows::Sampled(rows) => rows.len(),
        }
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Token of row `r`.
    #[must_use]
    pub fn source(&self, r: usize) -> usize {
        match self {
            Rows::All(_) => r,
            Rows::Sampled(rows) => rows[r] as usize,
        }
    }
}

/// A step block, checked once so that its accessors stay inside it.
#[derive(Clone, Copy, Debug)]
pub struct StepView<'a> {
    words: &'a [u32],
}

impl<'a> StepView<'a> {
    /// A view of `words`; None if a table of the header reaches beyond the block.
    #[must_use]
    pub fn new(words: &'a [u32]) -> Option<Self> {
        let header = words.get(..N_HEADER_WORDS)?;
        let fits = |at: u32, n: u32, width: usize| {
            (n as usize).checked_mul(width)?.checked_add(at as usize).filter(|&end| end <= words.len())
        };
        let [n_tokens, n_seqs, n_rows, n_tiles, tokens_at, seqs_at, rows_at, tiles_at, slots_at] = header[..9] else {
            return None;
        };
        fits(tokens_at, n_tokens, 4)?;
        fits(seqs_at, n_seqs, 4)?;
        fits(rows_at, n_rows, 1)?;
        fits(tiles_at, n_tiles, 4)?;
        fits(slots_at, 0, 1)?;
        Some(Self { words })
    }

    /// Number of tokens.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.words[0] as usize
    }

    /// Number of sequences.
    #[must_use]
    pub fn n_seqs(&self) -> usize {
        self.words[1] as usize
    }

    /// Number of rows whose logits are wanted.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.words[2] as usize
    }

    /// Number of attention tiles.
    #[must_use]
    pub fn n_tiles(&self) -> usize {
        self.words[3] as usize
    }

    /// Token `t`.
    #[must_use]
    pub fn token(&self, t: usize) -> Token {
        let [id, position, sequence, _] = self.quad(4, t, self.n_tokens());
        Token { id, position, sequence }
    }

    /// Sequence `s`.
    #[must_use]
    pub fn sequence(&self, s: usize) -> Sequence {
        let [q_start, q_len, kv_len, page_row] = self.quad(5, s, self.n_seqs());
        Sequence { q_start, q_len, kv_len, page_row }
    }

    /// Attention tile `i`.
    #[must_use]
    pub fn tile(&self, i: usize) -> Tile {
        let [sequence, q_tile, kv_split, n_splits] = self.quad(7, i, self.n_tiles());
        Tile { sequence, q_tile, kv_split, n_splits }
    }

    /// Tokens whose logits are wanted.
    #[must_use]
    pub fn rows(&self) -> &'a [u32] {
        let at = self.words[6] as usize;
        &self.words[at..at + self.n_rows()]
    }

    /// KV slots (page * 16 + offset) of all tokens in KV group `group`.
    #[must_use]
    pub fn slots(&self, group: usize) -> &'a [u32] {
        let at = self.words[8] as usize + group * self.n_tokens();
        &self.words[at..at + self.n_tokens()]
    }

    /// Row r = token r.
    #[must_use]
    pub fn all_rows(&self) -> Rows<'a> {
        Rows::All(self.n_tokens())
    }

    /// Row r = token `rows()[r]`.
    #[must_use]
    pub fn sampled_rows(&self) -> Rows<'a> {
        Rows::Sampled(self.rows())
    }

    fn quad(&self, header_word: usize, ix: usize, n: usize) -> [u32; 4] {
        assert!(ix < n, "entry {ix} of a step table of {n}");
        let at = self.words[header_word] as usize + 4 * ix;
        [self.words[at], self.words[at + 1], self.words[at + 2], self.words[at + 3]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_where_the_header_says() {
        let mut words = vec![0u32; 16];
        words[..9].copy_from_slice(&[2, 1, 1, 1, 16, 24, 28, 29, 33]);
        words.extend([7, 3, 0, 0, 9, 4, 0, 0]); // tokens
        words.extend([0, 2, 5, 6]); // sequence
        words.extend([1]); // row
        words.extend([0, 0, 0, 1]); // tile
        words.extend([100, 101, 200, 201]); // slots of two groups
        let step = StepView::new(&words).expect("well formed");
        assert_eq!(step.token(1), Token { id: 9, position: 4, sequence: 0 });
        assert_eq!(step.sequence(0), Sequence { q_start: 0, q_len: 2, kv_len: 5, page_row: 6 });
        assert_eq!(step.rows(), [1]);
        assert_eq!(step.tile(0), Tile { sequence: 0, q_tile: 0, kv_split: 0, n_splits: 1 });
        assert_eq!(step.slots(0), [100, 101]);
        assert_eq!(step.slots(1), [200, 201]);
    }

    #[test]
    fn a_table_beyond_the_block_is_refused() {
        assert!(StepView::new(&[0; 15]).is_none());
        for (n_word, at_word) in [(0, 4), (1, 5), (2, 6), (3, 7)] {
            let mut words = [0u32; 16];
            words[at_word] = 16;
            assert!(StepView::new(&words).is_some());
            words[n_word] = 1;
            assert!(StepView::new(&words).is_none());
            words[n_word] = u32::MAX;
            assert!(StepView::new(&words).is_none());
        }
    }
}
