// Scale and bias of a group in one word, scale in the lower half.

import package::lib::weight::weight_word;
import package::slot::half::half2;

// Scale and bias as they lie; all of their bits are in scale_word.
alias Scale = u32;

fn scale_load(group: u32) -> Scale { return weight_word(W_SCALES_AT + group); }
fn scale_word(scale: Scale) -> u32 { return scale; }
fn scale_and_bias(scale: Scale) -> vec2<f32> { return half2(scale); }
fn scale_bias(group: u32) -> vec2<f32> { return scale_and_bias(scale_load(group)); }
