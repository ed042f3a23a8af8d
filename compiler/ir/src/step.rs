//! The ragged batch contract. A step is packed tokens of any number of sequences: one prompt's chunk, one token
//! of each of many sequences, a draft to verify, or all at once. Kernels read positions and lengths from these
//! tables, never from constants, so there is one kernel interface for all of them. Grids are upper bounds.
//!
//! The tables travel as one block of 32-bit words:
//!
//! ```text
//! header (16 words) | tokens (4 words each) | sequences (4) | rows (1) | tiles (4) | slots (1 a token, a KV group)
//! ```

use crate::size::Dims;
use bytemuck::{Pod, Zeroable};

/// A token id with this bit is `SAMPLED | row`: the id is the one that the previous step sampled for that row, still on the device.
pub const SAMPLED: u32 = 1 << 31;

/// Words of the header.
pub const HEADER_WORDS: usize = 16;

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
    /// Zero.
    pub reserved: [u32; 7],
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

/// The tables of one step. Cleared and refilled, so that a decode step allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StepTables {
    /// Packed tokens.
    pub tokens: Vec<Token>,
    /// Sequences, in token order.
    pub sequences: Vec<Sequence>,
    /// Token index of each wanted row, ascending.
    pub rows: Vec<u32>,
    /// Attention work.
    pub tiles: Vec<Tile>,
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
        self.slots.clear();
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
        }
    }

    /// Writes the block into `words` (emptied first).
    pub fn write(&self, words: &mut Vec<u32>) {
        words.clear();
        let tokens_at = HEADER_WORDS as u32;
        let seqs_at = tokens_at + 4 * self.tokens.len() as u32;
        let rows_at = seqs_at + 4 * self.sequences.len() as u32;
        let tiles_at = rows_at + self.rows.len() as u32;
        let slots_at = tiles_at + 4 * self.tiles.len() as u32;
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
            reserved: [0; 7],
        };
        words.extend_from_slice(bytemuck::cast_slice(&[header]));
        words.extend_from_slice(bytemuck::cast_slice(&self.tokens));
        words.extend_from_slice(bytemuck::cast_slice(&self.sequences));
        words.extend_from_slice(&self.rows);
        words.extend_from_slice(bytemuck::cast_slice(&self.tiles));
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
            slots: words.get(header.slots_at as usize..)?,
        })
    }
    /// The KV slots of one group, one a token.
    pub fn group_slots(&self, group: usize) -> &'a [u32] {
        let n = self.tokens.len();
        self.slots.get(group * n..(group + 1) * n).unwrap_or(&[])
    }
}
