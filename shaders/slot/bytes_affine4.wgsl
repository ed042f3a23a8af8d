// Affine 4-bit codes as bytes; layout as in slot/weight_affine4.
//
// Every provider of bytes has these. A block is 32 columns of a row; bytes_load reads one. bytes_eight gives the 8 columns at
// its place i as two words of four signed bytes, which are the row's eight bytes_at(block, i); bytes_order puts 8 numbers,
// in the pairs of lib/half_rows, in the order of those words. bytes_finish makes the block's share of the product
// from the sum of column * x and the sum of x.

import package::lib::planes::{eight_at, low_words};
import package::slot::scale::{Scale, scale_and_bias, scale_load};

struct Bytes { words: vec4<u32>, scale: Scale }

fn bytes_load(row: u32, block: u32) -> Bytes {
    return Bytes(low_words(row, block), scale_load(row * (W_COLS / W_GROUP) + block * 32u / W_GROUP));
}
fn bytes_at(block: u32, i: u32) -> u32 { return eight_at(block, i); }
fn bytes_eight(bytes: Bytes, i: u32) -> vec2<u32> {
    return vec2<u32>(bytes.words[i] & 0x0f0f0f0fu, (bytes.words[i] >> 4u) & 0x0f0f0f0fu);
}
// Columns 0, 2, 4, 6 and 1, 3, 5, 7.
fn bytes_order(p0: vec2<i32>, p1: vec2<i32>, p2: vec2<i32>, p3: vec2<i32>) -> vec2<u32> {
    return vec2<u32>(pack4xI8(vec4<i32>(p0.x, p2.x, p0.y, p2.y)), pack4xI8(vec4<i32>(p1.x, p3.x, p1.y, p3.y)));
}
fn bytes_finish(bytes: Bytes, product: f32, x_sum: f32) -> f32 {
    let scale = scale_and_bias(bytes.scale);
    return product * scale.x + x_sum * scale.y;
}
