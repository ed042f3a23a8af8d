// Codes in planes (lib/planes) with a scale and bias for W_GROUP columns: w = code * scale + bias, where a code may stand for a
// number of a table. Interface: slot/weight_f32.

import package::lib::planes::{EIGHTS, W_HIGH, high_words, low_words, turned};
import package::slot::codes::{code_numbers, low_bits};
import package::slot::scale::scale_bias;

const BLOCK = 8u;

// The bits of eight columns: of columns 0 to 3 in the lower halves, 4 to 7 in the upper halves, but as slot/codes has it.
struct Block { low: vec2<u32>, high: u32, scale: vec2<f32> }

fn weight_load(row: u32, eight: u32) -> Block {
    let block = eight / EIGHTS;
    let place = turned(block, eight % EIGHTS);
    let words = low_words(row, block);
    var low = vec2<u32>(words.x, 0u);
    if W_LOW == 8u { low = select(words.xy, words.zw, place == 1u); }
    if W_LOW == 4u { low.x = words[place]; }
    if W_LOW == 2u { low.x = words[place / 2u] >> (8u * (place % 2u)); }
    if W_LOW == 1u { low.x = words.x >> (4u * place); }
    let above = high_words(row, block);
    var high = above.x >> (4u * place);
    if W_HIGH == 2u { high = above[place / 2u] >> (8u * (place % 2u)); }
    return Block(low, high, scale_bias(row * (W_COLS / W_GROUP) + 8u * eight / W_GROUP));
}
fn weight_place(eight: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, quad: u32) -> vec4<f32> {
    var bits = low_bits(block.low.x, quad);
    if W_LOW == 8u { bits = vec4<u32>(block.low.xx >> vec2<u32>(16u * quad, 16u * quad + 8u), block.low.yy >> vec2<u32>(16u * quad, 16u * quad + 8u)); }
    var codes = bits & vec4<u32>((1u << W_LOW) - 1u);
    if W_HIGH > 0u {
        let above = vec4<u32>(block.high >> (16u * quad)) >> (W_HIGH * vec4<u32>(0u, 1u, 2u, 3u));
        codes |= (above & vec4<u32>((1u << W_HIGH) - 1u)) << vec4<u32>(W_LOW);
    }
    return code_numbers(codes);
}
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 {
    return product * block.scale.x + x_sum * block.scale.y;
}
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    let block = weight_load(row, quad / 2u);
    return weight_quad(block, quad % 2u) * block.scale.x + block.scale.y;
}
