// Scales that are numbers of 8 bits (e4m3). Interface: slot/scale_e8m0.

import package::lib::weight::weight_word;
import package::lib::small_float::e4m3_quad;

// The byte in the low bits of a word.
alias Scale = u32;

fn scale_load(group: u32) -> Scale { return weight_word(W_SCALES_AT + group / 4u) >> (8u * (group % 4u)); }
fn scale_word(scale: Scale) -> u32 { return scale; }
fn scale_value(scale: Scale) -> f32 { return e4m3_quad(scale).x; }
fn scale_of(group: u32) -> f32 { return scale_value(scale_load(group)); }
