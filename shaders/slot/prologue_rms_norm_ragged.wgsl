// RMS normalization of the input as in prologue_rms_norm, for any K.

import package::slot::lanes::Lanes;

@group(1) @binding(1) var<storage, read> norm_weight: array<f32>;

const HAS_SQUARES = true;

fn prologue_begin(x_first: u32, x_last: u32, lanes: Lanes) {}
fn prologue_weight(quad: u32) -> vec4<f32> {
    var values = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if 4u * quad + i < K { values[i] = norm_weight[4u * quad + i]; }
    }
    return values;
}
fn prologue_square(x: vec4<f32>) -> f32 { return dot(x, x); }
fn prologue_factor(m: u32, squares: f32) -> f32 { return inverseSqrt(squares / f32(K) + EPS); }
