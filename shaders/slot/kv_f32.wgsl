// KV in single precision, read in 16-byte pieces: HEAD_DIM is a multiple of 8.

import package::lib::pages::row_word;

@group(3) @binding(0) var<storage, read> kv: array<vec4<f32>>;

// Numbers 8 * piece .. of a row.
struct KvPiece { low: vec4<f32>, high: vec4<f32> }

fn kv_piece(row: u32, piece: u32) -> KvPiece {
    let at = row_word(row) / 4u + 2u * piece;
    return KvPiece(kv[at], kv[at + 1u]);
}
fn low_quad(piece: KvPiece) -> vec4<f32> { return piece.low; }
fn high_quad(piece: KvPiece) -> vec4<f32> { return piece.high; }

// Numbers 2 * pair and 2 * pair + 1 of a row.
alias KvPair = vec2<f32>;

fn kv_pair(row: u32, pair: u32) -> KvPair {
    let word = row_word(row) + 2u * pair;
    return vec2<f32>(kv[word / 4u][word % 4u], kv[word / 4u][word % 4u + 1u]);
}
fn pair_numbers(pair: KvPair) -> vec2<f32> { return pair; }
