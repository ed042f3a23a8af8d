// What is added to logits so that the greatest is a draw from their softmax (Gumbel's trick): -ln(-ln(1 - u)), u made of a
// hash of the position's two words and the id. The runtime's `sample::random` computes the same bits.

fn gumbel(words: vec2<u32>, id: u32) -> f32 {
    let bits = scrambled(scrambled(id ^ words.x) + words.y);
    // u = (bits + 1/2) / 2^32. Tokens win with a small u, so that is where -ln(1 - u) must be exact.
    var e = 0.0;
    if bits < 0x10000000u {
        let u = (f32(bits) + 0.5) * 2.3283064365386963e-10;
        e = u * (1.0 + u * (0.5 + u * (0.33333334 + u * (0.25 + u * (0.2 + u * 0.16666667)))));
    } else {
        e = -log((f32(~bits) + 0.5) * 2.3283064365386963e-10);
    }
    return -log(e);
}

// A bijection of 32 bits in which every bit depends on every bit (Wellons' lowbias32).
fn scrambled(bits: u32) -> u32 {
    var x = bits;
    x = (x ^ (x >> 16u)) * 0x7feb352du;
    x = (x ^ (x >> 15u)) * 0x846ca68bu;
    return x ^ (x >> 16u);
}
