// Codes that are numbers of 8 bits (e4m3), W_GROUP (a multiple of 16) columns a scale: w = code * scale.
// Interface: slot/weight_f32.

import package::lib::weight::{weight, weight_word};
import package::lib::small_float::e4m3_quad;
import package::slot::scale::scale_of;

const BLOCK = 16u;

struct Block { words: vec4<u32>, scale: f32 }

fn weight_load(row: u32, block: u32) -> Block {
    return Block(weight[row * (W_COLS / BLOCK) + block], scale_of(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn weight_place(block: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, i: u32) -> vec4<f32> { return e4m3_quad(block.words[i]); }
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 { return product * block.scale; }
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    return e4m3_quad(weight_word(row * (W_COLS / 4u) + quad)) * scale_of(row * (W_COLS / W_GROUP) + 4u * quad / W_GROUP);
}
