//! The ragged batch contract. A step is packed tokens of any number of sequences: one prompt's chunk, one token
//! of each of many sequences, a draft to verify, or all at once. Kernels read positions and lengths from these
//! tables, never from constants, so there is one kernel interface for all of them. Grids are upper bounds.
//!
//! The tables travel as one block of 32-bit words:
//!
//! ```text
//! header (16 words) | tokens (4 words each) | sequences (4) | rows (1) | tiles (4) | choices (24) | slots (1 a token, a KV group)
//! ```

use crate::size::Dims;
use bytemuck::{Pod, Zeroable};

/// A token id with this bit is `SAMPLED | row`: the id is the one that the previous step sampled for that row, still on the device.
pub const SAMPLED: u32 = 1 << 31;

/// Words of the header.
pub const HEADER_WORDS: usize = 16;

/// Pairs of a best id and its log-probability that a GPU tells of a row, at most.
pub const MAX_BEST: u32 = 20;

/// Words that a row's choice leaves on a GPU: its id and log-probability, then [`MAX_BEST`] pairs.
pub const SAMPLED_WORDS: u32 = 2 + 2 * MAX_BEST;

/// Words of a sequence's lists on a GPU, before its token history: pairs of an id and its bias, ids that XTC spares,
/// ids that may not come yet.
pub const LIST_WORDS: u32 = 1024;

/// Tokens of a sequence's history on a GPU, at most: a ring of the newest.
pub const MAX_HISTORY: u32 = 1 << 16;

/// Words of a sequence's mask on a GPU, after its token history: bit `id % 32` of word `id / 32` says whether the form that
/// the answer keeps allows an id next.
pub fn mask_words(n_vocab: u32) -> u32 {
    n_vocab.div_ceil(32)
}

/// The first words of a block: counts, and where each table begins (in words from the block's start).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Header {
    /// Packed tokens.
    pub n_tokens: u32,
    /// Sequences.
    pub n_seqs: u32,
    /// Rows whose logits are wanted.
    pub n_rows: u32,
    /// Attention tiles.
    pub n_tiles: u32,
    /// Table of [`Token`].
    pub tokens_at: u32,
    /// Table of [`Sequence`].
    pub seqs_at: u32,
    /// Table of token indexes, one a row.
    pub rows_at: u32,
    /// Table of [`Tile`].
    pub tiles_at: u32,
    /// Table of KV slots, `[group][token]`.
    pub slots_at: u32,
    /// Table of [`Choice`], one a row.
    pub choices_at: u32,
    /// Choices: those of the first rows; the others take their greatest logit.
    pub n_choices: u32,
    /// Zero.
    pub reserved: [u32; 5],
}

/// One packed token.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Token {
    /// Vocabulary id, or [`SAMPLED`] and a row.
    pub id: u32,
    /// Position in its sequence, from 0.
    pub position: u32,
    /// Index of its sequence in the step.
    pub sequence: u32,
    /// Zero.
    pub reserved: u32,
}

/// One sequence of the batch.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Sequence {
    /// Index of its first token in the step.
    pub q_start: u32,
    /// Its tokens in the step.
    pub q_len: u32,
    /// Its KV entries, this step's included: its last token's position + 1.
    pub kv_len: u32,
    /// Its row of the page tables.
    pub page_row: u32,
}

/// One attention work item: some queries of one sequence against one part of its KV.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Tile {
    /// Index of the sequence in the step.
    pub sequence: u32,
    /// Which tile of queries: the tile's size is the kernel's.
    pub q_tile: u32,
    /// Which part of the KV.
    pub kv_split: u32,
    /// Parts in all.
    pub n_splits: u32,
}

/// How a row's token is chosen on a GPU. The default takes the greatest logit. Order and meaning are those of the runtime's
/// `sample`; a window of [`u32::MAX`] is the whole history, one of 0 is off.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
pub struct Choice {
    /// Row of the sequence's columns (lists and history).
    pub sequence: u32,
    /// Position of the token: tokens before it.
    pub position: u32,
    /// [`Choice::FILTERS`] and the like.
    pub flags: u32,
    /// 0 takes the greatest.
    pub inverse_temperature: f32,
    /// What the noise of this position is made of.
    pub noise: [u32; 2],
    /// Mass that the most probable tokens have together; 0 is off.
    pub top_p: f32,
    /// How far below the greatest log-probability a token may be; negative is off.
    pub farthest: f32,
    /// Tokens that stay however far they are.
    pub least_kept: u32,
    /// Probability above which all tokens but the last go; negative where XTC is not applied this time.
    pub xtc_threshold: f32,
    /// Tokens that stay at most; 0 is off.
    pub top_k: u32,
    /// Best ids that are told, at most [`MAX_BEST`].
    pub n_best: u32,
    /// Factor of the repetition penalty.
    pub repetition: f32,
    /// Its window.
    pub repetition_window: u32,
    /// Subtracted from tokens that occur.
    pub presence: f32,
    /// In this window.
    pub presence_window: u32,
    /// Subtracted for every time that a token occurs.
    pub frequency: f32,
    /// In this window.
    pub frequency_window: u32,
    /// Pairs of the first list.
    pub n_biases: u32,
    /// Ids of the third list that may not be chosen now.
    pub n_banned: u32,
    /// Ids of the second list.
    pub n_exempt: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

impl Choice {
    /// Something of the row's order must be known: filters, or best ids to tell.
    pub const FILTERS: u32 = 1;
    /// Logits are adjusted before.
    pub const ADJUSTS: u32 = 2;
    /// The token joins the sequence's history.
    pub const REMEMBERS: u32 = 4;
    /// The log-probability is told.
    pub const TELLS: u32 = 8;
    /// Only ids of the sequence's mask may be chosen.
    pub const KEEPS_FORM: u32 = 16;
    /// Words in the block.
    pub const WORDS: usize = size_of::<Self>() / 4;

    /// Whether the row must be looked at as a whole.
    pub fn filters(&self) -> bool {
        self.flags & Self::FILTERS != 0
    }
}

impl Default for Choice {
    fn default() -> Self {
        Self { farthest: -1.0, xtc_threshold: -1.0, ..Self::zeroed() }
    }
}

/// The tables of one step. Cleared and refilled, so that a decode step allocates nothing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StepTables {
    /// Packed tokens.
    pub tokens: Vec<Token>,
    /// Sequences, in token order.
    pub sequences: Vec<Sequence>,
    /// Token index of each wanted row, ascending.
    pub rows: Vec<u32>,
    /// Attention work.
    pub tiles: Vec<Tile>,
    /// How the first rows' tokens are chosen; the others take their greatest logit.
    pub choices: Vec<Choice>,
    /// KV slots `[group][token]`: `page * page_tokens + offset`.
    pub slots: Vec<u32>,
}

impl StepTables {
    /// Empties every table, keeping the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.sequences.clear();
        self.rows.clear();
        self.tiles.clear();
        self.choices.clear();
        self.slots.clear();
    }

    /// Says how a wanted row's token is chosen.
    pub fn choose(&mut self, row: u32, choice: Choice) {
        let n = self.choices.len().max(row as usize + 1);
        self.choices.resize(n, Choice::default());
        self.choices[row as usize] = choice;
    }

    /// Adds a sequence's next tokens at positions `n_cached ..`. `rows` come separately, tiles by [`Self::tile`].
    pub fn push_sequence(&mut self, ids: impl IntoIterator<Item = u32>, n_cached: u32, page_row: u32) {
        let sequence = self.sequences.len() as u32;
        let q_start = self.tokens.len() as u32;
        for (offset, id) in (0..).zip(ids) {
            self.tokens.push(Token { id, position: n_cached + offset, sequence, reserved: 0 });
        }
        let q_len = self.tokens.len() as u32 - q_start;
        self.sequences.push(Sequence { q_start, q_len, kv_len: n_cached + q_len, page_row });
    }

    /// Fills the tile table for kernels that take `q_tile` queries at once, the KV of each sequence in `n_splits` parts.
    pub fn tile(&mut self, q_tile: u32, n_splits: u32) {
        self.tiles.clear();
        for (sequence, entry) in (0..).zip(&self.sequences) {
            for q_tile in 0..entry.q_len.div_ceil(q_tile) {
                self.tiles.extend((0..n_splits).map(|kv_split| Tile { sequence, q_tile, kv_split, n_splits }));
            }
        }
    }

    /// The step's sizes.
    pub fn dims(&self) -> Dims {
        Dims {
            tokens: self.tokens.len() as u32,
            sequences: self.sequences.len() as u32,
            rows: self.rows.len() as u32,
            tiles: self.tiles.len() as u32,
            filtered: self.choices.iter().rposition(Choice::filters).map_or(0, |row| row as u32 + 1),
        }
    }

    /// Writes the block into `words` (emptied first).
    pub fn write(&self, words: &mut Vec<u32>) {
        words.clear();
        let tokens_at = HEADER_WORDS as u32;
        let seqs_at = tokens_at + 4 * self.tokens.len() as u32;
        let rows_at = seqs_at + 4 * self.sequences.len() as u32;
        let tiles_at = rows_at + self.rows.len() as u32;
        let choices_at = tiles_at + 4 * self.tiles.len() as u32;
        let slots_at = choices_at + (Choice::WORDS * self.choices.len()) as u32;
        let header = Header {
            n_tokens: self.tokens.len() as u32,
            n_seqs: self.sequences.len() as u32,
            n_rows: self.rows.len() as u32,
            n_tiles: self.tiles.len() as u32,
            tokens_at,
            seqs_at,
            rows_at,
            tiles_at,
            slots_at,
            choices_at,
            n_choices: self.choices.len() as u32,
            reserved: [0; 5],
        };
        words.extend_from_slice(bytemuck::cast_slice(&[header]));
        words.extend_from_slice(bytemuck::cast_slice(&self.tokens));
        words.extend_from_slice(bytemuck::cast_slice(&self.sequences));
        words.extend_from_slice(&self.rows);
        words.extend_from_slice(bytemuck::cast_slice(&self.tiles));
        words.extend_from_slice(bytemuck::cast_slice(&self.choices));
        words.extend_from_slice(&self.slots);
    }

    /// Checks the contract: counts, order, indexes within bounds, `n_groups` slots a token, slots below `n_slots` of their group.
    pub fn verify(&self, n_groups: usize, n_slots: &[u32]) -> Result<(), String> {
        let mut next = 0;
        for (s, entry) in (0u32..).zip(&self.sequences) {
            if entry.q_start != next || entry.q_len == 0 || entry.kv_len < entry.q_len {
                return Err(format!("sequence {s}: {entry:?} does not continue at token {next}"));
            }
            for i in 0..entry.q_len {
                let token =
                    self.tokens.get((next + i) as usize).ok_or_else(|| format!("sequence {s} runs past the tokens"))?;
                if token.sequence != s || token.position != entry.kv_len - entry.q_len + i {
                    return Err(format!("token {}: {token:?} is not token {i} of {entry:?}", next + i));
                }
            }
            next += entry.q_len;
        }
        if next as usize != self.tokens.len() {
            return Err(format!("{} tokens but sequences cover {next}", self.tokens.len()));
        }
        if self.rows.iter().any(|&row| row >= next) || self.rows.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("rows are not ascending token indexes".into());
        }
        if self.choices.len() > self.rows.len() {
            return Err(format!("{} choices for {} rows", self.choices.len(), self.rows.len()));
        }
        if self.slots.len() != n_groups * self.tokens.len() {
            return Err(format!("{} slots for {n_groups} groups and {next} tokens", self.slots.len()));
        }
        for (g, slots) in self.slots.chunks(self.tokens.len().max(1)).enumerate() {
            let limit = n_slots.get(g).copied().unwrap_or(0);
            if let Some(slot) = slots.iter().find(|slot| **slot >= limit) {
                return Err(format!("KV slot {slot} of group {g} is past its {limit} slots"));
            }
        }
        if self
            .tiles
            .iter()
            .any(|tile| tile.sequence as usize >= self.sequences.len() || tile.kv_split >= tile.n_splits)
        {
            return Err("a tile names no sequence of the step, or a part beyond its parts".into());
        }
        Ok(())
    }
}

/// Upper bound of a block's words for a bucket.
pub fn max_block_words(bounds: &Dims, n_groups: usize) -> usize {
    HEADER_WORDS
        + 4 * bounds.tokens as usize
        + 4 * bounds.sequences as usize
        + bounds.rows as usize
        + 4 * bounds.tiles as usize
        + Choice::WORDS * bounds.rows as usize
        + n_groups * bounds.tokens as usize
}

/// A block, read.
#[derive(Clone, Copy)]
pub struct StepView<'a> {
    /// The header.
    pub header: Header,
    /// Tokens.
    pub tokens: &'a [Token],
    /// Sequences.
    pub sequences: &'a [Sequence],
    /// Token index of each row.
    pub rows: &'a [u32],
    /// Attention work.
    pub tiles: &'a [Tile],
    /// How the first rows' tokens are chosen.
    pub choices: &'a [Choice],
    /// KV slots `[group][token]`.
    pub slots: &'a [u32],
}

impl<'a> StepView<'a> {
    /// Reads a block, or `None` if it is not one.
    pub fn read(words: &'a [u32]) -> Option<Self> {
        let header: Header = *bytemuck::try_from_bytes(bytemuck::cast_slice(words.get(..HEADER_WORDS)?)).ok()?;
        let table = |at: u32, n: u32, width: u32| {
            let (at, n) = (at as usize, n as usize * width as usize);
            words.get(at..at.checked_add(n)?)
        };
        Some(Self {
            header,
            tokens: bytemuck::try_cast_slice(table(header.tokens_at, header.n_tokens, 4)?).ok()?,
            sequences: bytemuck::try_cast_slice(table(header.seqs_at, header.n_seqs, 4)?).ok()?,
            rows: table(header.rows_at, header.n_rows, 1)?,
            tiles: bytemuck::try_cast_slice(table(header.tiles_at, header.n_tiles, 4)?).ok()?,
            choices: bytemuck::try_cast_slice(table(header.choices_at, header.n_choices, Choice::WORDS as u32)?)
                .ok()?,
            slots: words.get(header.slots_at as usize..)?,
        })
    }
    /// The KV slots of one group, one a token.
    pub fn group_slots(&self, group: usize) -> &'a [u32] {
        let n = self.tokens.len();
        self.slots.get(group * n..(group + 1) * n).unwrap_or(&[])
    }
}
