//! Where a plan's bytes go, known before anything is allocated.

use crate::plan::Plan;
use crate::step::{SAMPLED_WORDS, max_block_words};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A number of bytes, printed in units that people read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            n if n < 1_000 => format!("{n} B"),
            n if n < 1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
            n if n < 1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
            n => format!("{:.2} GB", n as f64 / 1e9),
        };
        f.pad(&text)
    }
}

/// So many of something, for messages: `counted(1, "token")` is `1 token`, of two it is `2 tokens`.
pub fn counted(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// A plan's memory for a number of sequences, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemoryTable {
    /// Sequences at one time.
    pub max_batch: u32,
    /// Tokens of pages a sequence.
    pub context: u32,
    /// Weights; on the CPU mostly the mapped file.
    pub weights: u64,
    /// Pages of keys and values of all layers.
    pub kv: u64,
    /// Values between kernels.
    pub arena: u64,
    /// Logits of the rows that a step may want.
    pub logits: u64,
    /// The step's tables, sampled ids, page tables, and columns of sequences.
    pub step: u64,
    /// Buffers that results are read back through (GPU).
    pub staging: u64,
}

/// Results that may be on their way to the host at one time.
const READ_BACKS: u64 = 3;

impl MemoryTable {
    /// The memory of a plan that serves `max_batch` sequences from `n_pages` pages of each KV group.
    pub fn new(plan: &Plan, max_batch: u32, n_pages: &[u32]) -> Self {
        let bounds = plan.max_bounds();
        let groups = || plan.kv.groups.ids();
        let tables = u64::from(max_batch) * u64::from(plan.max_pages()) * 4 * groups().len() as u64;
        let (rows, columns) = if plan.is_cpu {
            (u64::from(bounds.rows) * 4, 0)
        } else {
            (u64::from(bounds.rows * SAMPLED_WORDS) * 4, u64::from(max_batch) * u64::from(plan.column_words()) * 4)
        };
        Self {
            max_batch,
            context: (n_pages.iter().max().map_or(0, |n| u64::from(*n)) * u64::from(plan.page_tokens)
                / u64::from(max_batch.max(1))) as u32,
            weights: plan.weight_bytes(),
            kv: groups().zip(n_pages).map(|(group, n)| plan.page_bytes_all_layers(group) * u64::from(*n)).sum(),
            arena: plan.arenas.as_slice().iter().sum(),
            logits: plan.logits_bytes(),
            step: max_block_words(&bounds, groups().len()) as u64 * 4 + rows + tables + columns,
            staging: if plan.is_cpu { 0 } else { READ_BACKS * (plan.logits_bytes() + rows) },
        }
    }

    /// What the pages hold at one time: `1 sequence of 8192 tokens`.
    pub fn sequences(&self) -> String {
        format!("{} of {}", counted(self.max_batch.into(), "sequence"), counted(self.context.into(), "token"))
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.rows().iter().map(|(_, bytes)| bytes).sum()
    }

    fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("weights", self.weights),
            ("KV pages", self.kv),
            ("arena", self.arena),
            ("logits", self.logits),
            ("step tables", self.step),
            ("staging", self.staging),
        ]
    }
}

impl fmt::Display for MemoryTable {
    /// A line a row, then the sum; without a line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in self.rows() {
            let note = match name {
                "KV pages" => format!("  {}", self.sequences()),
                _ => String::new(),
            };
            writeln!(f, "{name:<12}{:>10}{note}", Bytes(bytes))?;
        }
        write!(f, "{:<12}{:>10}", "total", Bytes(self.total()))
    }
}
