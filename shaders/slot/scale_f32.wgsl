// Scale and bias of a group in two words.

import package::lib::weight::weight_word;

// Scale and bias as they lie; all of their bits are in scale_word.
alias Scale = vec2<u32>;

fn scale_load(group: u32) -> Scale {
    return vec2<u32>(weight_word(W_SCALES_AT + 2u * group), weight_word(W_SCALES_AT + 2u * group + 1u));
}
fn scale_word(scale: Scale) -> u32 { return scale.x | scale.y; }
fn scale_and_bias(scale: Scale) -> vec2<f32> { return bitcast<vec2<f32>>(scale); }
fn scale_bias(group: u32) -> vec2<f32> { return scale_and_bias(scale_load(group)); }
