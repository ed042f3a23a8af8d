// Affine quantization, 4 bits a code and W_GROUP columns a group: w = code * scale + bias. Interface: slot/weight_f32.
//
// A block is 32 columns in four words, the load of one lane. Words are turned by the block's number: place i holds word
// i ^ (block / 2 % 4), so that at each place eight neighbouring lanes read half rows of x (lib/half_rows) from eight
// different groups of memory banks. In plain order all would meet in two, and x would take longer than the weights.
// Converting integers costs more than multiplying, so codes become floats by their bits: a code at bits 4i .. 4i + 3
// under the exponent of 2^23 is the number 2^23 + 16^i * code; one exact multiply-add leaves the code.

import package::lib::weight::{weight, weight_word};
import package::slot::scale::scale_bias;

const BLOCK = 32u;

struct Block { words: vec4<u32>, scale: vec2<f32> }

fn weight_load(row: u32, block: u32) -> Block {
    return Block(weight[row * (W_COLS / BLOCK) + block], scale_bias(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn weight_place(block: u32, i: u32) -> u32 { return i ^ (2u * (block / 2u % 4u)); }
fn weight_quad(block: Block, i: u32) -> vec4<f32> { return codes(block.words[i / 2u] >> (16u * (i % 2u))); }
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 {
    return product * block.scale.x + x_sum * block.scale.y;
}
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    let scale = scale_bias(row * (W_COLS / W_GROUP) + 4u * quad / W_GROUP);
    let block = quad / 8u;
    let place = (quad % 8u / 2u) ^ (block / 2u % 4u);
    let word = weight_word((row * (W_COLS / BLOCK) + block) * 4u + place);
    return codes(word >> (16u * (quad % 2u))) * scale.x + scale.y;
}

// The four codes in the lower half of a word.
fn codes(half: u32) -> vec4<f32> {
    let bits = (vec4<u32>(half) & vec4<u32>(0xfu, 0xf0u, 0xf00u, 0xf000u)) | vec4<u32>(0x4b000000u);
    return bitcast<vec4<f32>>(bits) * vec4<f32>(1.0, 0.0625, 0.00390625, 0.000244140625)
        - vec4<f32>(8388608.0, 524288.0, 32768.0, 2048.0);
}
