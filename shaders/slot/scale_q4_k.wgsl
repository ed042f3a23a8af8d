// Scale and bias of 32 columns of q4_k and q5_k. A block's header is five words: 8 bytes of scales, 8 bytes of minima, then
// two f16 numbers that they are times.

import package::lib::weight::weight_word;

fn scale_bias(group: u32) -> vec2<f32> {
    let header = W_SCALES_AT + group / 8u * 5u;
    let at = header + group % 8u / 4u;
    let shift = 8u * (group % 4u);
    let bytes = (vec2<u32>(weight_word(at), weight_word(at + 2u)) >> vec2<u32>(shift)) & vec2<u32>(0xffu);
    return unpack2x16float(weight_word(header + 4u)) * vec2<f32>(bytes) * vec2<f32>(1.0, -1.0);
}
