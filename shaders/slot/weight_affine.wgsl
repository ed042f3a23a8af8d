// Affine quantization, W_BITS a code (1 to 6, or 8) and W_GROUP columns a group: w = code * scale + bias, where a code may
// stand for a number of a table.
// Codes are one little-endian bit stream a row, so 32 columns are W_BITS words. Interface: slot/weight_f32.

import package::lib::weight::weight_word;
import package::slot::codes::codes;
import package::slot::scale::scale_bias;

const BLOCK = 8u;
const ROW_WORDS = W_COLS / 32u * W_BITS;

struct Block { windows: vec2<u32>, scale: vec2<f32> }

fn weight_load(row: u32, block: u32) -> Block {
    let windows = vec2<u32>(window(row, 2u * block), window(row, 2u * block + 1u));
    return Block(windows, scale_bias(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn weight_place(block: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, quad: u32) -> vec4<f32> { return codes(select(block.windows.x, block.windows.y, quad == 1u)); }
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 {
    return product * block.scale.x + x_sum * block.scale.y;
}
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    let scale = scale_bias(row * (W_COLS / W_GROUP) + 4u * quad / W_GROUP);
    return codes(window(row, quad)) * scale.x + scale.y;
}

// A word whose low bits are the four codes from column 4 * quad.
fn window(row: u32, quad: u32) -> u32 {
    let bit = 4u * quad * W_BITS;
    let at = row * ROW_WORDS + bit / 32u;
    var bits = weight_word(at) >> (bit % 32u);
    if bit % 32u + 4u * W_BITS > 32u { bits |= weight_word(at + 1u) << (32u - bit % 32u); }
    return bits;
}
