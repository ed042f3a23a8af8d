// Scale and bias of a group in two words.

import package::lib::weight::weight_word;

fn scale_bias(group: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(weight_word(W_SCALES_AT + 2u * group), weight_word(W_SCALES_AT + 2u * group + 1u)));
}
