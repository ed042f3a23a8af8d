// Codes of 4 bits that are places in the table of iq4_nl and iq4_xs:
// -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113, four signed bytes a word here.
// Interface: slot/codes_unsigned.

// Two codes a byte: columns 0 to 3 in the low bits of a word's bytes, 4 to 7 in the high ones.
fn low_bits(word: u32, quad: u32) -> vec4<u32> { return vec4<u32>(word >> (4u * quad)) >> vec4<u32>(0u, 8u, 16u, 24u); }
fn code_numbers(codes: vec4<u32>) -> vec4<f32> {
    let low = select(vec4<u32>(0xbfad9881u), vec4<u32>(0xf6eaddcfu), (codes & vec4<u32>(4u)) != vec4<u32>());
    let high = select(vec4<u32>(0x26190d01u), vec4<u32>(0x71594535u), (codes & vec4<u32>(4u)) != vec4<u32>());
    let words = select(low, high, (codes & vec4<u32>(8u)) != vec4<u32>());
    // The byte at the top of its word, then down again with its sign.
    let bytes = words << (vec4<u32>(24u) - 8u * (codes & vec4<u32>(3u)));
    return vec4<f32>(bitcast<vec4<i32>>(bytes) >> vec4<u32>(24u));
}
