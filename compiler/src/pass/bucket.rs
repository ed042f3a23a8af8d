//! The step sizes that a plan has variants for. A variant is compiled for upper bounds; a step takes the first that it fits.

use crate::target::TargetProfile;
use ingot_ir::size::Dims;

/// Sequences that may share a prefill step.
const PREFILL_SEQUENCES: u32 = 8;

/// A variant to be compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// Upper bounds of a step's sizes.
    pub bounds: Dims,
    /// Whether every token's logits are wanted, so that rows are tokens.
    pub all_rows: bool,
}

/// One token; then prefill chunks.
pub fn run(target: &TargetProfile) -> Vec<Bucket> {
    let one = Dims { tokens: 1, sequences: 1, rows: 1, tiles: 1 };
    let tokens = target.prefill_tokens;
    let sequences = PREFILL_SEQUENCES.min(tokens);
    let tiles = tokens.div_ceil(target.prefill_q_tile) + sequences;
    let chunk = Dims { tokens, sequences, rows: target.max_rows.min(tokens), tiles };
    vec![Bucket { bounds: one, all_rows: true }, Bucket { bounds: chunk, all_rows: false }]
}
