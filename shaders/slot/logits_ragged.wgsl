// Rows of N logits, any N.

@group(0) @binding(1) var<storage, read> x: array<f32>;

// Columns 4 * quad .., of which one at least must be in the row; in place of those past its end the last one.
fn logits_of(row: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(
        logit_of(row, min(4u * quad, N - 1u)),
        logit_of(row, min(4u * quad + 1u, N - 1u)),
        logit_of(row, min(4u * quad + 2u, N - 1u)),
        logit_of(row, min(4u * quad + 3u, N - 1u)),
    );
}

fn logit_of(row: u32, column: u32) -> f32 { return x[row * N + column]; }
