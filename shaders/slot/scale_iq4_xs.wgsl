// Scale of 32 columns of iq4_xs. A block's header is three words: 8 signed bytes of scales, then an f16 number that they
// are times.

import package::lib::weight::weight_word;

fn scale_bias(group: u32) -> vec2<f32> {
    let header = W_SCALES_AT + group / 8u * 3u;
    let byte = weight_word(header + group % 8u / 4u) << (24u - 8u * (group % 4u));
    return vec2<f32>(unpack2x16float(weight_word(header + 2u)).x * f32(bitcast<i32>(byte) >> 24u), 0.0);
}
