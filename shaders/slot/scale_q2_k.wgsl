// Scale and bias of 16 columns of q2_k. A block's header is five words: 16 bytes of scale (low half) and minimum (high
// half), then two f16 numbers that they are times. Interface: slot/scale_half.

import package::lib::weight::weight_word;

// The byte in the low bits of a word, and the two numbers.
alias Scale = vec2<u32>;

fn scale_load(group: u32) -> Scale {
    let header = W_SCALES_AT + group / 16u * 5u;
    return vec2<u32>(weight_word(header + group % 16u / 4u) >> (8u * (group % 4u)), weight_word(header + 4u));
}
fn scale_word(scale: Scale) -> u32 { return scale.x | scale.y; }
fn scale_and_bias(scale: Scale) -> vec2<f32> {
    let units = unpack2x16float(scale.y);
    return vec2<f32>(units.x * f32(scale.x & 15u), -units.y * f32((scale.x >> 4u) & 15u));
}
fn scale_bias(group: u32) -> vec2<f32> { return scale_and_bias(scale_load(group)); }
