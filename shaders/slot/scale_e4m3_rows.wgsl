// Scales that are numbers of 8 bits (e4m3) times their row's factor. Interface: slot/scale_e8m0.

import package::lib::weight::weight_word;
import package::lib::small_float::e4m3_quad;

fn scale_of(group: u32) -> f32 {
    let factor = bitcast<f32>(weight_word(W_FACTORS_AT + group / (W_COLS / W_GROUP)));
    return e4m3_quad(weight_word(W_SCALES_AT + group / 4u) >> (8u * (group % 4u))).x * factor;
}
