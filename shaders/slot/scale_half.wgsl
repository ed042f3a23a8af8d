// Scale and bias of a group in one word, scale in the lower half.

import package::lib::weight::weight_word;
import package::slot::half::half2;

fn scale_bias(group: u32) -> vec2<f32> { return half2(weight_word(W_SCALES_AT + group)); }
