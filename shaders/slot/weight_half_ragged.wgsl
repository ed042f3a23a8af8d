// Weight of 16-bit numbers, any even W_COLS: zeros follow a row's last column. Interface: slot/weight_f32.

import package::lib::weight::weight_word;
import package::slot::half::half2;

const BLOCK = 4u;

struct Block { values: vec4<f32> }

fn weight_load(row: u32, block: u32) -> Block { return Block(weight_columns(row, block)); }
fn weight_place(block: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, quad: u32) -> vec4<f32> { return block.values; }
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 { return product; }
fn weight_columns(row: u32, quad: u32) -> vec4<f32> {
    let at = row * (W_COLS / 2u) + 2u * quad;
    var values = vec4<f32>(half2(weight_word(at)), 0.0, 0.0);
    if 4u * quad + 2u < W_COLS { values = vec4<f32>(values.xy, half2(weight_word(at + 1u))); }
    return values;
}
