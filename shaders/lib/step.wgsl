// The step block: what this step computes. A header of 16 words, then tables at the word offsets that it names.

@group(0) @binding(0) var<storage, read> step_words: array<u32>;

fn step_n_tokens() -> u32 { return step_words[0]; }
fn step_n_rows() -> u32 { return step_words[2]; }
fn step_n_tiles() -> u32 { return step_words[3]; }

// id, position, sequence, 0
fn step_token(token: u32) -> vec4<u32> { return step_quad(step_words[4] + 4u * token); }

// first token, number of tokens, KV entries with this step's, row of the page table
fn step_sequence(sequence: u32) -> vec4<u32> { return step_quad(step_words[5] + 4u * sequence); }

// The token whose logits row `row` wants.
fn step_row(row: u32) -> u32 { return step_words[step_words[6] + row]; }

// sequence, tile of its queries, part of its KV, number of parts
fn step_tile(tile: u32) -> vec4<u32> { return step_quad(step_words[7] + 4u * tile); }

// Choices in the table: those of the first rows.
fn step_n_choices() -> u32 { return step_words[10]; }

// A word of row `row`'s choice.
fn step_choice(row: u32, word: u32) -> u32 { return step_words[step_words[9] + 24u * row + word]; }

// Where KV group `group` keeps a token: page * 16 + offset.
fn step_slot(group: u32, token: u32) -> u32 { return step_words[step_words[8] + group * step_words[0] + token]; }

// Words that a row's choice leaves in `sampled`: its id and log-probability, then up to 20 pairs of ids and theirs.
const SAMPLED_WORDS = 42u;

// A word that is always 0, which no compiler can know: see lib/angle.
fn step_zero() -> u32 { return step_words[15]; }

fn step_quad(at: u32) -> vec4<u32> {
    return vec4<u32>(step_words[at], step_words[at + 1u], step_words[at + 2u], step_words[at + 3u]);
}
