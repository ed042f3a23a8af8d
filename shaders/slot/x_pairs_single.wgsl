// Input in single precision, K a multiple of 8, made half-precision pairs with the prologue applied. Interface:
// slot/x_pairs_half.

import package::lib::half_rows::{Eight, HALF_SCALE};
import package::slot::prologue::{HAS_SQUARES, prologue_weight, prologue_square};

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

struct XEight { columns: Eight, sum: f32, squares: f32 }

fn x_eight(row: u32, eight: u32) -> XEight {
    let a = x[row * (K / 4u) + 2u * eight];
    let b = x[row * (K / 4u) + 2u * eight + 1u];
    let c = a * prologue_weight(2u * eight) * HALF_SCALE;
    let d = b * prologue_weight(2u * eight + 1u) * HALF_SCALE;
    let columns = Eight(
        vec2<f16>(vec2<f32>(c.x, d.x)),
        vec2<f16>(vec2<f32>(c.y, d.y)),
        vec2<f16>(vec2<f32>(c.z, d.z)),
        vec2<f16>(vec2<f32>(c.w, d.w)),
    );
    var squares = 0.0;
    if HAS_SQUARES { squares = prologue_square(a) + prologue_square(b); }
    return XEight(columns, dot(c + d, vec4<f32>(1.0)), squares);
}
fn whole(sum: f32) -> f32 { return sum; }
