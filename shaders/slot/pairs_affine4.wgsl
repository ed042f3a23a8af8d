// Half-precision pairs of affine 4-bit codes; layout as in slot/weight_affine4.
//
// Every provider of pairs has these. A block is BLOCK columns of a row, a multiple of 16; pairs_load reads one.
// pairs_eight gives the 8 columns at its place i before scaling, in the order of lib/half_rows; they are the block's eight
// pairs_place(block, i). pairs_finish makes the block's share of the product from the sum of column * x and the sum of x.
// A code at bits 0 .. 3 under the exponent of 2^10 is the number 1024 + code, at bits 4 .. 7 1024 + 16 * code. Codes are
// centred (-8 .. 7), which halves the sums that half precision has to hold; pairs_finish moves the bias accordingly.

import package::lib::half_rows::{Eight, as_half};
import package::lib::weight::weight;
import package::slot::scale::scale_bias;

const BLOCK = 32u;

struct Block { words: vec4<u32>, scale: vec2<f32> }

fn pairs_load(row: u32, block: u32) -> Block {
    return Block(weight[row * (W_COLS / BLOCK) + block], scale_bias(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn pairs_place(block: u32, i: u32) -> u32 { return (i + block / 2u) % 4u; }
fn pairs_eight(block: Block, i: u32) -> Eight {
    let low = block.words[i];
    let high = low >> 8u;
    return Eight(
        as_half((low & 0x000f000fu) | 0x64006400u) - vec2<f16>(1032.0h),
        as_half((low & 0x00f000f0u) | 0x64006400u) * vec2<f16>(0.0625h) - vec2<f16>(72.0h),
        as_half((high & 0x000f000fu) | 0x64006400u) - vec2<f16>(1032.0h),
        as_half((high & 0x00f000f0u) | 0x64006400u) * vec2<f16>(0.0625h) - vec2<f16>(72.0h),
    );
}
fn pairs_finish(block: Block, product: f32, x_sum: f32) -> f32 {
    return product * block.scale.x + x_sum * (block.scale.y + 8.0 * block.scale.x);
}
