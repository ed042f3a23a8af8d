// Scale and bias of 32 columns of q4_k and q5_k. A block's header is five words: 8 bytes of scales, 8 bytes of minima, then
// two f16 numbers that they are times. Interface: slot/scale_half.

import package::lib::weight::weight_word;

// Scale and minimum in the low bits of two words, and the two numbers.
alias Scale = vec3<u32>;

fn scale_load(group: u32) -> Scale {
    let header = W_SCALES_AT + group / 8u * 5u;
    let at = header + group % 8u / 4u;
    let shift = 8u * (group % 4u);
    return vec3<u32>(weight_word(at) >> shift, weight_word(at + 2u) >> shift, weight_word(header + 4u));
}
fn scale_word(scale: Scale) -> u32 { return scale.x | scale.y | scale.z; }
fn scale_and_bias(scale: Scale) -> vec2<f32> {
    return unpack2x16float(scale.z) * vec2<f32>(scale.xy & vec2<u32>(0xffu)) * vec2<f32>(1.0, -1.0);
}
fn scale_bias(group: u32) -> vec2<f32> { return scale_and_bias(scale_load(group)); }
