// Single-precision weight, W_COLS a multiple of 4.
//
// Every weight provider has these. A block is BLOCK neighbouring columns of a row; weight_load reads one,
// weight_quad gives its i-th four columns before scaling, which are its quad weight_place(block, i), weight_finish makes
// the block's share of the product from the sum of column * x and the sum of x. weight_columns gives four columns, scaled.

import package::lib::weight::weight;

const BLOCK = 4u;

struct Block { words: vec4<u32> }

fn weight_load(row: u32, block: u32) -> Block { return Block(weight[row * (W_COLS / 4u) + block]); }
fn weight_place(block: u32, i: u32) -> u32 { return i; }
fn weight_quad(block: Block, quad: u32) -> vec4<f32> { return bitcast<vec4<f32>>(block.words); }
fn weight_finish(block: Block, product: f32, x_sum: f32) -> f32 { return product; }
fn weight_columns(row: u32, quad: u32) -> vec4<f32> { return bitcast<vec4<f32>>(weight[row * (W_COLS / 4u) + quad]); }
