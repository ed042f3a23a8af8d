// Weight of 16-bit numbers, W_COLS a multiple of 8. Interface: slot/weight_f32.

import package::lib::weight::{weight, weight_word};
import package::slot::half::half2;

const BLOCK = 8u;

struct Block { words: vec4<u32> }

fn weight_load(row: u32, block: u32) -> Block { return Block(weight[row * (W_COLS / 8u) + block]); }
fn weight_place(block: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, quad: u32) -> vec4<f32> {
    let words = select(block.words.xy, block.words.zw, quad == 1u);
    return vec4<f32>(half2(words.x), half2(words.y));
}
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 { return product; }
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    let at = row * (W_COLS / 2u) + 2u * quad;
    return vec4<f32>(half2(weight_word(at)), half2(weight_word(at + 1u)));
}
