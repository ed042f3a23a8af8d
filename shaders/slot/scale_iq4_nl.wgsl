// Scale of 32 columns of iq4_nl: an f16 number, two a word.

import package::lib::weight::weight_word;

fn scale_bias(group: u32) -> vec2<f32> {
    let pair = unpack2x16float(weight_word(W_SCALES_AT + group / 2u));
    return vec2<f32>(select(pair.x, pair.y, group % 2u == 1u), 0.0);
}
