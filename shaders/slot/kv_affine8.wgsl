// KV as codes of 8 bits: a number is code * scale + bias.

import package::lib::pages::{row_word, kv_scale_word};

@group(3) @binding(0) var<storage, read> kv: array<vec2<u32>>;

// Codes, and their scale and bias.
struct KvPiece { codes: vec2<u32>, scale: u32 }

fn word_of(word: u32) -> u32 { return kv[word / 2u][word % 2u]; }

// Numbers 8 * piece .. of a row.
fn kv_piece(row: u32, piece: u32) -> KvPiece {
    return KvPiece(kv[row_word(row) / 2u + piece], word_of(kv_scale_word(row, 8u * piece)));
}
fn quad_numbers(codes: u32, scale: u32) -> vec4<f32> {
    let bytes = vec4<f32>((vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u));
    let both = unpack2x16float(scale);
    return bytes * both.x + vec4<f32>(both.y);
}
fn low_quad(piece: KvPiece) -> vec4<f32> { return quad_numbers(piece.codes.x, piece.scale); }
fn high_quad(piece: KvPiece) -> vec4<f32> { return quad_numbers(piece.codes.y, piece.scale); }

// Numbers 2 * pair and 2 * pair + 1 of a row: their codes in the low bits of x, scale and bias in y.
alias KvPair = vec2<u32>;

fn kv_pair(row: u32, pair: u32) -> KvPair {
    let codes = word_of(row_word(row) + pair / 2u) >> (pair % 2u * 16u);
    return vec2<u32>(codes, word_of(kv_scale_word(row, 2u * pair)));
}
fn pair_numbers(pair: KvPair) -> vec2<f32> {
    let both = unpack2x16float(pair.y);
    return vec2<f32>((vec2<u32>(pair.x) >> vec2<u32>(0u, 8u)) & vec2<u32>(255u)) * both.x + vec2<f32>(both.y);
}
