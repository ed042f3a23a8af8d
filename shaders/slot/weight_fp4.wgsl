// Codes that are numbers of 4 bits (e2m1), W_GROUP (32 or 16) columns a scale: w = code * scale. Interface: slot/weight_f32.
//
// Eight columns are a word, four in each half: of the first the sign is bit 15 and the rest bits 11 to 9, of the others 8 and
// 14 to 12, 7 and 3 to 1, 0 and 6 to 4 (see slot/pairs_fp4 for the reason). Where rows are blocks of 32 columns, words of a
// block are turned as in slot/weight_affine4.

import package::lib::weight::weight_word;
import package::lib::small_float::e2m1_numbers;
import package::slot::scale::scale_of;

const BLOCK = 8u;

struct Block { word: u32, scale: f32 }

fn weight_load(row: u32, eight: u32) -> Block {
    var at = eight;
    if W_COLS % 32u == 0u { at ^= eight / 8u % 4u; }
    return Block(weight_word(row * (W_COLS / BLOCK) + at), scale_of(row * (W_COLS / W_GROUP) + 8u * eight / W_GROUP));
}
fn weight_place(eight: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, quad: u32) -> vec4<f32> {
    let half = vec4<u32>(block.word >> (16u * quad));
    return e2m1_numbers((half >> vec4<u32>(9u, 12u, 1u, 4u)) & vec4<u32>(7u), (half >> vec4<u32>(15u, 8u, 7u, 0u)) << vec4<u32>(31u));
}
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 { return product * block.scale; }
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    let block = weight_load(row, quad / 2u);
    return weight_quad(block, quad % 2u) * block.scale;
}
