// KV in half precision, read in 16-byte pieces: HEAD_DIM is a multiple of 8.

import package::lib::pages::row_word;

@group(3) @binding(0) var<storage, read> kv: array<vec4<u32>>;

// Numbers 8 * piece .. of a row, packed.
alias KvPiece = vec4<u32>;

fn kv_piece(row: u32, piece: u32) -> KvPiece { return kv[row_word(row) / 4u + piece]; }
fn low_quad(piece: KvPiece) -> vec4<f32> { return vec4<f32>(unpack2x16float(piece.x), unpack2x16float(piece.y)); }
fn high_quad(piece: KvPiece) -> vec4<f32> { return vec4<f32>(unpack2x16float(piece.z), unpack2x16float(piece.w)); }

// Numbers 2 * pair and 2 * pair + 1 of a row, packed.
alias KvPair = u32;

fn kv_pair(row: u32, pair: u32) -> KvPair {
    let word = row_word(row) + pair;
    return kv[word / 4u][word % 4u];
}
fn pair_numbers(pair: KvPair) -> vec2<f32> { return unpack2x16float(pair); }
