// Half-precision pairs of codes that are numbers of 8 bits (e4m3); layout as in slot/weight_fp8. Interface:
// slot/pairs_planes.
//
// Exponent and fraction are put where half precision has them, so that a number is 2^8 times too small, those without a
// leading one too. Times 16 the largest is 28.

import package::lib::half_rows::{Eight, as_half};
import package::lib::planes::{eight_at, low_words};
import package::lib::step::step_zero;
import package::slot::scale::{Scale, scale_load, scale_value, scale_word};

const BLOCK = 16u;

struct Block { words: vec4<u32>, scale: Scale }

struct Opaque { zero: u32 }

fn pairs_begin(thread: u32) {}
fn opaque() -> Opaque { return Opaque(step_zero()); }
fn pairs_load(row: u32, block: u32) -> Block {
    return Block(low_words(row, block), scale_load(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn pairs_at(block: u32, i: u32) -> u32 { return eight_at(block, i); }
fn pairs_eight(block: Block, i: u32, opaque: Opaque) -> Eight {
    var first = block.words[2u * i];
    let second = block.words[2u * i + 1u];
    if i == 0u { first |= scale_word(block.scale) & opaque.zero; }
    return Eight(upper(first << 8u), upper(first), upper(second << 8u), upper(second));
}
fn pairs_finish(block: Block, part: u32, product: f32, x_sum: f32) -> f32 {
    return product * (scale_value(block.scale) * 16.0);
}

// The numbers in the upper bytes of both halves.
fn upper(word: u32) -> vec2<f16> {
    return as_half((word & 0x80008000u) | ((word >> 1u) & 0x3f803f80u)) * vec2<f16>(16.0h);
}
