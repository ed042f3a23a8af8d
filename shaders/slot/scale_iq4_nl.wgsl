// Scale of 32 columns of iq4_nl: an f16 number, two a word. Interface: slot/scale_half, and scale_value as in
// slot/scale_e8m0.

import package::lib::weight::weight_word;

// In the low half.
alias Scale = u32;

fn scale_load(group: u32) -> Scale { return weight_word(W_SCALES_AT + group / 2u) >> (16u * (group % 2u)); }
fn scale_word(scale: Scale) -> u32 { return scale; }
fn scale_value(scale: Scale) -> f32 { return unpack2x16float(scale).x; }
fn scale_bias(group: u32) -> vec2<f32> { return vec2<f32>(scale_value(scale_load(group)), 0.0); }
