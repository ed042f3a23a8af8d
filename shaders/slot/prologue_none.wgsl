// The input is multiplied as it is.
//
// Every prologue has these: prologue_begin comes before the products, prologue_weight multiplies four columns of the
// input, prologue_square is summed over the input's row if HAS_SQUARES, and prologue_factor multiplies the finished sum
// with row m of the workgroup's rows of x.

import package::slot::lanes::Lanes;

const HAS_SQUARES = false;

fn prologue_begin(x_first: u32, x_last: u32, lanes: Lanes) {}
fn prologue_weight(quad: u32) -> vec4<f32> { return vec4<f32>(1.0); }
fn prologue_square(x: vec4<f32>) -> f32 { return 0.0; }
fn prologue_factor(m: u32, squares: f32) -> f32 { return 1.0; }
