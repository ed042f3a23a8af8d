// rms_norm: out[r, c] = x[r, c] * w[c] / sqrt(mean over c of x[r, c]^2 + EPS), for each run r of N_COLS numbers.
//
// A row has RUNS of them, one beside the other (heads), from column X_AT of rows of X_STRIDE numbers on; results are close
// together. One workgroup a run. Workgroup memory: 4 * WG bytes, for the sum.
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
    let run = linear_id(workgroup, n_workgroups);
    let row = run / RUNS;
    if row >= n_rows() { return; }
    let first = row * X_STRIDE + X_AT + run % RUNS * N_COLS;
    var squares = 0.0;
    for (var column = thread; column < N_COLS; column += WG) {
        let v = x[first + column];
        squares += v * v;
    }
    let factor = inverseSqrt(workgroup_sum(squares, thread) / f32(N_COLS) + EPS);
    for (var column = thread; column < N_COLS; column += WG) {
        out[run * N_COLS + column] = x[first + column] * factor * norm_weight[column];
    }
}
