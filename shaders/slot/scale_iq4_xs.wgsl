// Scale of 32 columns of iq4_xs. A block's header is three words: 8 signed bytes of scales, then an f16 number that they
// are times. Interface: slot/scale_half, and scale_value as in
// slot/scale_e8m0.

import package::lib::weight::weight_word;

// The byte in the high bits of a word, and the number.
alias Scale = vec2<u32>;

fn scale_load(group: u32) -> Scale {
    let header = W_SCALES_AT + group / 8u * 3u;
    return vec2<u32>(weight_word(header + group % 8u / 4u) << (24u - 8u * (group % 4u)), weight_word(header + 2u));
}
fn scale_word(scale: Scale) -> u32 { return scale.x | scale.y; }
fn scale_value(scale: Scale) -> f32 { return unpack2x16float(scale.y).x * f32(bitcast<i32>(scale.x) >> 24u); }
fn scale_bias(group: u32) -> vec2<f32> { return vec2<f32>(scale_value(scale_load(group)), 0.0); }
