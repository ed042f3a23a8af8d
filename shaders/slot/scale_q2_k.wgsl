// Scale and bias of 16 columns of q2_k. A block's header is five words: 16 bytes of scale (low half) and minimum (high
// half), then two f16 numbers that they are times.

import package::lib::weight::weight_word;

fn scale_bias(group: u32) -> vec2<f32> {
    let header = W_SCALES_AT + group / 16u * 5u;
    let byte = weight_word(header + group % 16u / 4u) >> (8u * (group % 4u));
    let units = unpack2x16float(weight_word(header + 4u));
    return vec2<f32>(units.x * f32(byte & 15u), -units.y * f32((byte >> 4u) & 15u));
}
