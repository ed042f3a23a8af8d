// rms_norm: out[r, c] = x[r, c] * w[c] / sqrt(mean over c of x[r, c]^2 + EPS).
//
// One workgroup a row. Workgroup memory: 4 * WG bytes, for the sum.
// Slots: rows.

import package::lib::grid::linear_id;
import package::lib::reduce::workgroup_sum;
import package::slot::rows::n_rows;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(1) @binding(0) var<storage, read> norm_weight: array<f32>;
@group(2) @binding(0) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = linear_id(workgroup, n_workgroups);
    if row >= n_rows() { return; }
    var squares = 0.0;
    for (var column = thread; column < N_COLS; column += WG) {
        let v = x[row * N_COLS + column];
        squares += v * v;
    }
    let factor = inverseSqrt(workgroup_sum(squares, thread) / f32(N_COLS) + EPS);
    for (var column = thread; column < N_COLS; column += WG) {
        out[row * N_COLS + column] = x[row * N_COLS + column] * factor * norm_weight[column];
    }
}
