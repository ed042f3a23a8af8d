// RMS normalization of the input: its weight multiplies the input, its factor the finished sum, so that no pass over
// the input comes first. K is a multiple of 4.

import package::slot::lanes::Lanes;

@group(1) @binding(1) var<storage, read> norm_weight: array<vec4<f32>>;

const HAS_SQUARES = true;

fn prologue_begin(x_first: u32, x_last: u32, lanes: Lanes) {}
fn prologue_weight(quad: u32) -> vec4<f32> { return norm_weight[quad]; }
fn prologue_square(x: vec4<f32>) -> f32 { return dot(x, x); }
fn prologue_factor(m: u32, squares: f32) -> f32 { return inverseSqrt(squares / f32(K) + EPS); }
