// Codes that are numbers of 8 bits (e4m3), W_GROUP (a multiple of 16) columns a scale: w = code * scale.
// Interface: slot/weight_f32.
//
// Eight columns are two words as of codes of 8 bits in lib/planes: columns 0, 1, 4, 5 and 2, 3, 6, 7.

import package::lib::weight::weight;
import package::lib::small_float::e4m3_quad;
import package::slot::scale::scale_of;

const BLOCK = 8u;

struct Block { words: vec2<u32>, scale: f32 }

fn weight_load(row: u32, eight: u32) -> Block {
    let words = weight[row * (W_COLS / 16u) + eight / 2u];
    let is_second = (eight % 2u) != (eight / 8u % 2u);
    return Block(select(words.xy, words.zw, is_second), scale_of(row * (W_COLS / W_GROUP) + 8u * eight / W_GROUP));
}
fn weight_place(eight: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, quad: u32) -> vec4<f32> {
    let halves = block.words >> vec2<u32>(16u * quad);
    return e4m3_quad((halves.x & 0xffffu) | (halves.y << 16u));
}
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 { return product * block.scale; }
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    let block = weight_load(row, quad / 2u);
    return weight_quad(block, quad % 2u) * block.scale;
}
