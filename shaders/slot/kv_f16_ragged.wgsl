// KV in half precision, read word by word: any even HEAD_DIM, zeros follow a row's last number.

import package::lib::pages::{KV_ROW_WORDS, row_word};

@group(3) @binding(0) var<storage, read> kv: array<u32>;

// Numbers 8 * piece .. of a row, packed.
alias KvPiece = vec4<u32>;

fn kv_piece(row: u32, piece: u32) -> KvPiece {
    var words = vec4<u32>();
    for (var i = 0u; i < 4u; i++) {
        if 4u * piece + i < KV_ROW_WORDS { words[i] = kv[row_word(row) + 4u * piece + i]; }
    }
    return words;
}
fn low_quad(piece: KvPiece) -> vec4<f32> { return vec4<f32>(unpack2x16float(piece.x), unpack2x16float(piece.y)); }
fn high_quad(piece: KvPiece) -> vec4<f32> { return vec4<f32>(unpack2x16float(piece.z), unpack2x16float(piece.w)); }

// Numbers 2 * pair and 2 * pair + 1 of a row, packed.
alias KvPair = u32;

fn kv_pair(row: u32, pair: u32) -> KvPair { return kv[row_word(row) + pair]; }
fn pair_numbers(pair: KvPair) -> vec2<f32> { return unpack2x16float(pair); }
