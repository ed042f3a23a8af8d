// Half-precision pairs of affine 4-bit codes; layout as in slot/weight_affine4.
//
// Every provider of pairs has these. A block is BLOCK columns of a row, a multiple of 16; pairs_load reads one.
// pairs_eight gives the 8 columns at its place i before scaling, in the order of lib/half_rows; they are the row's eight
// pairs_at(block, i). pairs_finish makes the block's share of the product from the sum of column * x and the sum of x.
// A code at bits 0 .. 3 under the exponent of 2^10 is the number 1024 + code, at bits 4 .. 7 1024 + 16 * code. Codes are
// centred (-8 .. 7), which halves the sums that half precision has to hold; pairs_finish moves the bias accordingly.
// `Opaque` holds the exponent twice, and a word that is 0, as numbers that no compiler knows. A known exponent makes two
// instructions of masking and setting; one in a register makes one. Scales take part in the first word by bits that are
// always 0, since drivers that see no use for them before pairs_finish load them there, and wait for memory once more.

import package::lib::half_rows::{Eight, as_half};
import package::lib::step::step_zero;
import package::lib::weight::weight;
import package::slot::scale::{Scale, scale_and_bias, scale_load, scale_word};

const BLOCK = 32u;

struct Block { words: vec4<u32>, scale: Scale }

struct Opaque { exponent: u32, zero: u32 }

fn opaque() -> Opaque { return Opaque(0x64006400u + step_zero(), step_zero()); }
fn pairs_load(row: u32, block: u32) -> Block {
    return Block(weight[row * (W_COLS / BLOCK) + block], scale_load(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn pairs_at(block: u32, i: u32) -> u32 { return (4u * block + block / 2u % 4u) ^ i; }
fn pairs_eight(block: Block, i: u32, opaque: Opaque) -> Eight {
    var low = block.words[i];
    if i == 0u { low |= scale_word(block.scale) & opaque.zero; }
    let high = low >> 8u;
    return Eight(
        as_half((low & 0x000f000fu) | opaque.exponent) - vec2<f16>(1032.0h),
        as_half((low & 0x00f000f0u) | opaque.exponent) * vec2<f16>(0.0625h) - vec2<f16>(72.0h),
        as_half((high & 0x000f000fu) | opaque.exponent) - vec2<f16>(1032.0h),
        as_half((high & 0x00f000f0u) | opaque.exponent) * vec2<f16>(0.0625h) - vec2<f16>(72.0h),
    );
}
fn pairs_finish(block: Block, product: f32, x_sum: f32) -> f32 {
    let scale = scale_and_bias(block.scale);
    return product * scale.x + x_sum * (scale.y + 8.0 * scale.x);
}
