// Single-precision weight, any W_COLS: zeros follow a row's last column. Interface: slot/weight_f32.

import package::lib::weight::weight_word;

const BLOCK = 4u;

struct Block { values: vec4<f32> }

fn weight_load(row: u32, block: u32) -> Block { return Block(weight_columns(row, block)); }
fn weight_place(block: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, quad: u32) -> vec4<f32> { return block.values; }
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 { return product; }
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    var values = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        let column = 4u * quad + i;
        if column < W_COLS { values[i] = bitcast<f32>(weight_word(row * W_COLS + column)); }
    }
    return values;
}
