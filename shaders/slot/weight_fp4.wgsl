// Codes that are numbers of 4 bits (e2m1), W_GROUP columns a scale: w = code * scale. Interface: slot/weight_f32.
// A block is a group: 32 columns in four words, or 16 in two.

import package::lib::weight::{weight, weight_word};
import package::lib::small_float::e2m1_quad;
import package::slot::scale::scale_of;

const BLOCK = W_GROUP;

struct Block { words: vec4<u32>, scale: f32 }

fn weight_load(row: u32, block: u32) -> Block {
    let group = row * (W_COLS / W_GROUP) + block;
    var words = vec4<u32>();
    if W_GROUP == 32u {
        words = weight[group];
    } else {
        words = vec4<u32>(weight_word(2u * group), weight_word(2u * group + 1u), 0u, 0u);
    }
    return Block(words, scale_of(group));
}
fn weight_place(block: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, i: u32) -> vec4<f32> { return e2m1_quad(block.words[i / 2u] >> (16u * (i % 2u))); }
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 { return product * block.scale; }
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    let word = weight_word(row * (W_COLS / 8u) + quad / 2u);
    return e2m1_quad(word >> (16u * (quad % 2u))) * scale_of(row * (W_COLS / W_GROUP) + 4u * quad / W_GROUP);
}
