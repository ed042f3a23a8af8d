// Scales that are powers of two in a byte: 2^(byte - 127). Byte 0, 2^-127, has no leading one in single precision.
//
// Every provider of scales without biases has scale_of: the factor of group `group`, counted through the rows.

import package::lib::weight::weight_word;

fn scale_of(group: u32) -> f32 {
    let byte = (weight_word(W_SCALES_AT + group / 4u) >> (8u * (group % 4u))) & 0xffu;
    return bitcast<f32>(select(byte << 23u, 0x00400000u, byte == 0u));
}
