// Codes that are unsigned numbers of W_BITS.
//
// Every provider of codes has codes: the four numbers in the low bits of a word, lowest first.

const CODE_SHIFTS = vec4<u32>(0u, W_BITS, 2u * W_BITS, 3u * W_BITS);
const CODE_MASK = (1u << W_BITS) - 1u;

fn codes(bits: u32) -> vec4<f32> { return vec4<f32>((vec4<u32>(bits) >> CODE_SHIFTS) & vec4<u32>(CODE_MASK)); }
