// Half-precision pairs of codes that are numbers of 4 bits (e2m1); layout as in slot/weight_fp4. Interface:
// slot/pairs_planes.
//
// Exponent and fraction are put where half precision has them, so that a number is 2^14 times too small: 0.5, the only one
// without a leading one, is 2^-15 there and has none either. Two of four codes need one mask, the others two shifts more.

import package::lib::half_rows::{Eight, as_half};
import package::lib::planes::{eight_at, low_words, turned};
import package::lib::step::step_zero;
import package::slot::scale::{Scale, scale_load, scale_value, scale_word};

const BLOCK = 32u;
const GROUPS = BLOCK / W_GROUP;

struct Block { words: vec4<u32>, scales: array<Scale, GROUPS> }

struct Opaque { zero: u32 }

fn pairs_begin(thread: u32) {}
fn opaque() -> Opaque { return Opaque(step_zero()); }
fn pairs_load(row: u32, block: u32) -> Block {
    var loaded: Block;
    loaded.words = low_words(row, block);
    let group = row * (W_COLS / W_GROUP) + block * GROUPS;
    loaded.scales[0] = scale_load(group + select(0u, turned(block, 0u) / 2u, GROUPS == 2u));
    if GROUPS == 2u { loaded.scales[GROUPS - 1u] = scale_load(group + turned(block, 2u) / 2u); }
    return loaded;
}
fn pairs_at(block: u32, i: u32) -> u32 { return eight_at(block, i); }
fn pairs_eight(block: Block, i: u32, opaque: Opaque) -> Eight {
    var first = block.words[i];
    if i % 2u == 0u && i / 2u < GROUPS { first |= scale_word(block.scales[i / 2u]) & opaque.zero; }
    let second = first << 8u;
    return Eight(upper(first), lower(first), upper(second), lower(second));
}
fn pairs_finish(block: Block, part: u32, product: f32, x_sum: f32) -> f32 {
    return product * scale_value(block.scales[part % GROUPS]);
}

// Sign in bit 15 of each half, the rest in bits 11, 10, 9.
fn upper(word: u32) -> vec2<f16> { return as_half(word & 0x8e008e00u) * vec2<f16>(16384.0h); }
// Sign in bit 8 of each half, the rest in bits 14, 13, 12.
fn lower(word: u32) -> vec2<f16> {
    return as_half(((word >> 3u) & 0x0e000e00u) | ((word << 7u) & 0x80008000u)) * vec2<f16>(16384.0h);
}
