// KV as codes of 4 bits: a number is code * scale + bias.

import package::lib::pages::{row_word, kv_scale_word};

@group(3) @binding(0) var<storage, read> kv: array<u32>;

// Codes, and their scale and bias.
struct KvPiece { codes: u32, scale: u32 }

// Numbers 8 * piece .. of a row.
fn kv_piece(row: u32, piece: u32) -> KvPiece {
    return KvPiece(kv[row_word(row) + piece], kv[kv_scale_word(row, 8u * piece)]);
}
fn quad_numbers(codes: u32, scale: u32) -> vec4<f32> {
    let numbers = vec4<f32>((vec4<u32>(codes) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u));
    let both = unpack2x16float(scale);
    return numbers * both.x + vec4<f32>(both.y);
}
fn low_quad(piece: KvPiece) -> vec4<f32> { return quad_numbers(piece.codes, piece.scale); }
fn high_quad(piece: KvPiece) -> vec4<f32> { return quad_numbers(piece.codes >> 16u, piece.scale); }

// Numbers 2 * pair and 2 * pair + 1 of a row: their codes in the low bits of x, scale and bias in y.
alias KvPair = vec2<u32>;

fn kv_pair(row: u32, pair: u32) -> KvPair {
    let codes = kv[row_word(row) + pair / 4u] >> (pair % 4u * 8u);
    return vec2<u32>(codes, kv[kv_scale_word(row, 2u * pair)]);
}
fn pair_numbers(pair: KvPair) -> vec2<f32> {
    let both = unpack2x16float(pair.y);
    return vec2<f32>((vec2<u32>(pair.x) >> vec2<u32>(0u, 4u)) & vec2<u32>(15u)) * both.x + vec2<f32>(both.y);
}
