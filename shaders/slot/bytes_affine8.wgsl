// Affine 8-bit codes as bytes; layout as in lib/planes. Codes are centred (-128 .. 127). Interface: slot/bytes_affine4.

import package::lib::planes::{eight_at, low_words};
import package::slot::scale::{Scale, scale_and_bias, scale_load};

struct Bytes { low: vec4<u32>, high: vec4<u32>, scale: Scale }

fn bytes_load(row: u32, block: u32) -> Bytes {
    return Bytes(low_words(row, 2u * block), low_words(row, 2u * block + 1u), scale_load(row * (W_COLS / W_GROUP) + block * 32u / W_GROUP));
}
fn bytes_at(block: u32, i: u32) -> u32 { return eight_at(2u * block + i / 2u, i % 2u); }
fn bytes_eight(bytes: Bytes, i: u32) -> vec2<u32> {
    let words = select(bytes.low, bytes.high, i >= 2u);
    return select(words.xy, words.zw, i % 2u == 1u) ^ vec2<u32>(0x80808080u);
}
// Columns 0, 1, 4, 5 and 2, 3, 6, 7.
fn bytes_order(p0: vec2<i32>, p1: vec2<i32>, p2: vec2<i32>, p3: vec2<i32>) -> vec2<u32> {
    return vec2<u32>(pack4xI8(vec4<i32>(p0.x, p1.x, p0.y, p1.y)), pack4xI8(vec4<i32>(p2.x, p3.x, p2.y, p3.y)));
}
fn bytes_finish(bytes: Bytes, product: f32, x_sum: f32) -> f32 {
    let scale = scale_and_bias(bytes.scale);
    return product * scale.x + x_sum * (scale.y + 128.0 * scale.x);
}
