// Floating-point numbers of 4 and 8 bits, exactly as single-precision ones.
//
// Exponent and fraction are put where single precision has them and the exponent's bias is added. Numbers without a
// leading one then come out as 1.f at the smallest exponent e, for 0.f at the next: 2v - 2^(e + 1), which is less than v
// there alone.

// e2m1: numbers of these sizes (three bits: exponent, fraction), with a sign in bit 31.
fn e2m1_numbers(sizes: vec4<u32>, signs: vec4<u32>) -> vec4<f32> {
    let v = bitcast<vec4<f32>>((sizes << vec4<u32>(22u)) + vec4<u32>(0x3f000000u));
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(min(v, 2.0 * v - 1.0)) | signs);
}

// e4m3: the four numbers of a word, lowest first.
fn e4m3_quad(word: u32) -> vec4<f32> {
    let bits = vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u);
    let v = bitcast<vec4<f32>>(((bits & vec4<u32>(0x7fu)) << vec4<u32>(20u)) + vec4<u32>(0x3c000000u));
    let size = min(v, 2.0 * v - 0.015625);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(size) | ((bits & vec4<u32>(0x80u)) << vec4<u32>(24u)));
}
