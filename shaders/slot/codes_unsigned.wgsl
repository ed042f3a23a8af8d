// Codes that are unsigned numbers.
//
// Every provider of codes has code_numbers: what four codes stand for.

fn code_numbers(codes: vec4<u32>) -> vec4<f32> { return vec4<f32>(codes); }
