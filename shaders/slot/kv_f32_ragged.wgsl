// KV in single precision, read number by number: any even HEAD_DIM, zeros follow a row's last number.

import package::lib::pages::row_word;

@group(3) @binding(0) var<storage, read> kv: array<f32>;

// Numbers 8 * piece .. of a row.
struct KvPiece { low: vec4<f32>, high: vec4<f32> }

fn quad_of(row: u32, d: u32) -> vec4<f32> {
    var quad = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if d + i < HEAD_DIM { quad[i] = kv[row_word(row) + d + i]; }
    }
    return quad;
}
fn kv_piece(row: u32, piece: u32) -> KvPiece { return KvPiece(quad_of(row, 8u * piece), quad_of(row, 8u * piece + 4u)); }
fn low_quad(piece: KvPiece) -> vec4<f32> { return piece.low; }
fn high_quad(piece: KvPiece) -> vec4<f32> { return piece.high; }

// Numbers 2 * pair and 2 * pair + 1 of a row.
alias KvPair = vec2<f32>;

fn kv_pair(row: u32, pair: u32) -> KvPair {
    let at = row_word(row) + 2u * pair;
    return vec2<f32>(kv[at], kv[at + 1u]);
}
fn pair_numbers(pair: KvPair) -> vec2<f32> { return pair; }
