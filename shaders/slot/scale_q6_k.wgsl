// Scale and bias of 16 columns of q3_k and q6_k, whose codes are centred. A block's header is five words: 16 signed bytes of
// scales, then an f16 number that they are times.

import package::lib::weight::weight_word;

fn scale_bias(group: u32) -> vec2<f32> {
    let header = W_SCALES_AT + group / 16u * 5u;
    let byte = weight_word(header + group % 16u / 4u) << (24u - 8u * (group % 4u));
    let scale = unpack2x16float(weight_word(header + 4u)).x * f32(bitcast<i32>(byte) >> 24u);
    return vec2<f32>(scale, -f32(1u << (W_BITS - 1u)) * scale);
}
