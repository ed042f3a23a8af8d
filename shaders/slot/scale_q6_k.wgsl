// Scale and bias of 16 columns of q3_k and q6_k, whose codes are centred. A block's header is five words: 16 signed bytes of
// scales, then an f16 number that they are times. Interface: slot/scale_half.

import package::lib::weight::weight_word;

// The byte in the high bits of a word, and the number.
alias Scale = vec2<u32>;

fn scale_load(group: u32) -> Scale {
    let header = W_SCALES_AT + group / 16u * 5u;
    return vec2<u32>(weight_word(header + group % 16u / 4u) << (24u - 8u * (group % 4u)), weight_word(header + 4u));
}
fn scale_word(scale: Scale) -> u32 { return scale.x | scale.y; }
fn scale_and_bias(scale: Scale) -> vec2<f32> {
    let number = unpack2x16float(scale.y).x * f32(bitcast<i32>(scale.x) >> 24u);
    return vec2<f32>(number, -f32(1u << (W_BITS - 1u)) * number);
}
fn scale_bias(group: u32) -> vec2<f32> { return scale_and_bias(scale_load(group)); }
