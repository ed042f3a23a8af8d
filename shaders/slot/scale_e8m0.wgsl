// Scales that are powers of two in a byte: 2^(byte - 127). Byte 0, 2^-127, has no leading one in single precision.
//
// Every provider of scales without biases has scale_load: the scale of group `group`, counted through the rows, as it lies;
// scale_word, a word of its bits; scale_value, its number; and scale_of, both at once.

import package::lib::weight::weight_word;

// The byte in the low bits of a word.
alias Scale = u32;

fn scale_load(group: u32) -> Scale { return weight_word(W_SCALES_AT + group / 4u) >> (8u * (group % 4u)); }
fn scale_word(scale: Scale) -> u32 { return scale; }
fn scale_value(scale: Scale) -> f32 {
    let byte = scale & 0xffu;
    return bitcast<f32>(select(byte << 23u, 0x00400000u, byte == 0u));
}
fn scale_of(group: u32) -> f32 { return scale_value(scale_load(group)); }
