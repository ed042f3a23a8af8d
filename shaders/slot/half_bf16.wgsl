// Words of two bfloat16 numbers: the upper halves of single-precision ones.

fn half2(word: u32) -> vec2<f32> { return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u)); }
