// Codes that are unsigned numbers.
//
// Every provider of codes has low_bits: where the low bits of columns 4 * quad .. of an eight begin in its word (its first of two),
// and code_numbers: what four codes stand for.

fn low_bits(word: u32, quad: u32) -> vec4<u32> {
    return vec4<u32>(word >> (16u * quad)) >> (W_LOW * vec4<u32>(0u, 1u, 2u, 3u));
}

fn code_numbers(codes: vec4<u32>) -> vec4<f32> { return vec4<f32>(codes); }
