// Words of two IEEE half-precision numbers.

fn half2(word: u32) -> vec2<f32> { return unpack2x16float(word); }
