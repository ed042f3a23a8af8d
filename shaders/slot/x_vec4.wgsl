// Input rows of K numbers, K a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

// Columns 4 * quad .. of a row.
fn x_quad(row: u32, quad: u32) -> vec4<f32> { return x[row * (K / 4u) + quad]; }
