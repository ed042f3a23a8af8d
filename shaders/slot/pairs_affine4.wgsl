// Half-precision pairs of 4-bit codes with scale and bias; layout as in slot/weight_affine4. Interface: slot/pairs_planes, which
// makes the same of other widths.
//
// A code at bits 0 .. 3 under the exponent of 2^10 is the number 1024 + code, at bits 4 .. 7 1024 + 16 * code. Codes are
// centred (-8 .. 7); pairs_finish moves the bias accordingly.

import package::lib::half_rows::{Eight, as_half};
import package::lib::planes::{eight_at, low_words};
import package::lib::step::step_zero;
import package::slot::scale::{Scale, scale_and_bias, scale_load, scale_word};

const BLOCK = 32u;

struct Block { words: vec4<u32>, scale: Scale }

struct Opaque { exponent: u32, zero: u32 }

fn pairs_begin(thread: u32) {}
fn opaque() -> Opaque { return Opaque(0x64006400u + step_zero(), step_zero()); }
fn pairs_load(row: u32, block: u32) -> Block {
    return Block(low_words(row, block), scale_load(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn pairs_at(block: u32, i: u32) -> u32 { return eight_at(block, i); }
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
fn pairs_finish(block: Block, part: u32, product: f32, x_sum: f32) -> f32 {
    let scale = scale_and_bias(block.scale);
    return product * scale.x + x_sum * (scale.y + 8.0 * scale.x);
}
