// Scales that are numbers of 8 bits (e4m3) times their row's factor. Interface: slot/scale_e8m0.

import package::lib::weight::weight_word;
import package::lib::small_float::e4m3_quad;

// The byte in the low bits of a word, and the factor.
alias Scale = vec2<u32>;

fn scale_load(group: u32) -> Scale {
    let byte = weight_word(W_SCALES_AT + group / 4u) >> (8u * (group % 4u));
    return vec2<u32>(byte, weight_word(W_FACTORS_AT + group / (W_COLS / W_GROUP)));
}
fn scale_word(scale: Scale) -> u32 { return scale.x | scale.y; }
fn scale_value(scale: Scale) -> f32 { return e4m3_quad(scale.x).x * bitcast<f32>(scale.y); }
fn scale_of(group: u32) -> f32 { return scale_value(scale_load(group)); }
