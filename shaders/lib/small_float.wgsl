// Floating-point numbers of 4 and 8 bits, exactly as single-precision ones.
//
// Exponent and fraction are put where single precision has them and the exponent's bias is added. Numbers without a
// leading one then come out as 1.f at the smallest exponent e, for 0.f at the next: 2v - 2^(e + 1), which is less than v
// there alone.

// e2m1: the four numbers in the lower half of a word, lowest first.
fn e2m1_quad(half: u32) -> vec4<f32> {
    let bits = vec4<u32>(half) >> vec4<u32>(0u, 4u, 8u, 12u);
    let v = bitcast<vec4<f32>>(((bits & vec4<u32>(7u)) << vec4<u32>(22u)) + vec4<u32>(0x3f000000u));
    let size = min(v, 2.0 * v - 1.0);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(size) | ((bits & vec4<u32>(8u)) << vec4<u32>(28u)));
}

// e4m3: the four numbers of a word, lowest first.
fn e4m3_quad(word: u32) -> vec4<f32> {
    let bits = vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u);
    let v = bitcast<vec4<f32>>(((bits & vec4<u32>(0x7fu)) << vec4<u32>(20u)) + vec4<u32>(0x3c000000u));
    let size = min(v, 2.0 * v - 0.015625);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(size) | ((bits & vec4<u32>(0x80u)) << vec4<u32>(24u)));
}
