// Half-precision pairs of affine 4-bit codes; layout as in slot/weight_affine4.
//
// Every provider of pairs has these. A block is BLOCK columns of a row, a multiple of 16; pairs_load reads one.
// pairs_eight gives the 8 columns at its place i before scaling, in the order of lib/half_rows; they are the block's eight
// pairs_place(block, i). pairs_finish makes the block's share of the product from the sum of column * x and the sum of x.
// A code at bits 0 .. 3 under the exponent of 2^10 is the number 1024 + code, at bits 4 .. 7 1024 + 16 * code. Codes are
// centred (-8 .. 7), which halves the sums that half precision has to hold; pairs_finish moves the bias accordingly.

// What stands in `exponent` is such a number's bits, twice, from pairs_exponent: opaque, so that it takes a register and
// masking and setting become one instruction, of which drivers make two when both numbers are constants. In the same way
// scales take part in the first word, by bits that are always 0: a driver that sees no use for them before pairs_finish
// loads them there, and waits for memory once more.

import package::lib::half_rows::{Eight, as_half};
import package::lib::step::step_zero;
import package::lib::weight::weight;
import package::slot::scale::{Scale, scale_and_bias, scale_load, scale_word};

const BLOCK = 32u;

struct Block { words: vec4<u32>, scale: Scale }

fn pairs_exponent() -> u32 { return 0x64006400u | step_zero(); }
fn pairs_load(row: u32, block: u32) -> Block {
    return Block(weight[row * (W_COLS / BLOCK) + block], scale_load(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn pairs_place(block: u32, i: u32) -> u32 { return (i + block / 2u) % 4u; }
fn pairs_eight(block: Block, i: u32, exponent: u32) -> Eight {
    var low = block.words[i];
    if i == 0u { low |= scale_word(block.scale) & (exponent ^ 0x64006400u); }
    let high = low >> 8u;
    return Eight(
        as_half((low & 0x000f000fu) | exponent) - vec2<f16>(1032.0h),
        as_half((low & 0x00f000f0u) | exponent) * vec2<f16>(0.0625h) - vec2<f16>(72.0h),
        as_half((high & 0x000f000fu) | exponent) - vec2<f16>(1032.0h),
        as_half((high & 0x00f000f0u) | exponent) * vec2<f16>(0.0625h) - vec2<f16>(72.0h),
    );
}
fn pairs_finish(block: Block, product: f32, x_sum: f32) -> f32 {
    let scale = scale_and_bias(block.scale);
    return product * scale.x + x_sum * (scale.y + 8.0 * scale.x);
}
