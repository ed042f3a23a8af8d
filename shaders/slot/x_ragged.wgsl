// Input rows of K numbers, any K: zeros follow the last.

@group(0) @binding(1) var<storage, read> x: array<f32>;

// Columns 4 * quad .. of a row.
fn x_quad(row: u32, quad: u32) -> vec4<f32> {
    var values = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        let column = 4u * quad + i;
        if column < K { values[i] = x[row * K + column]; }
    }
    return values;
}
