// Input in half rows, K a multiple of 8.
//
// Every provider of x as pairs has x_eight: 8 columns of a row times HALF_SCALE, their sum and, where the prologue wants
// it, the sum of their squares before prologue and scale. Sums of two eights may be added; `whole` makes a number of one.

import package::lib::half_rows::{Eight, as_half};

@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;

struct XEight { columns: Eight, sum: vec2<f16>, squares: f32 }

fn x_eight(row: u32, eight: u32) -> XEight {
    let words = x[row * (K / 8u) + eight];
    let columns = Eight(as_half(words.x), as_half(words.y), as_half(words.z), as_half(words.w));
    return XEight(columns, (columns.p0 + columns.p1) + (columns.p2 + columns.p3), 0.0);
}
fn whole(sum: vec2<f16>) -> f32 { return f32(sum.x) + f32(sum.y); }
