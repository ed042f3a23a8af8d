// Rows of N logits, N a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

// Columns 4 * quad .., of which one at least must be in the row.
fn logits_of(row: u32, quad: u32) -> vec4<f32> { return x[row * (N / 4u) + quad]; }

fn logit_of(row: u32, column: u32) -> f32 { return x[row * (N / 4u) + column / 4u][column % 4u]; }
