// rms_norm: out[r, c] = epilogue(x[r, c] * w[c] / sqrt(mean over c of x[r, c]^2 + EPS)), for each run of N_COLS numbers.
//
// A row has RUNS of them, one beside the other (heads), from column X_AT of rows of X_STRIDE numbers on; of the result from
// OUT_AT of OUT_STRIDE. One workgroup a run. Workgroup memory: 4 * WG bytes, for the sum.
// Slots: rows, epilogue (a residual), and with it out: in single precision, or in half rows with OUT_HALF.

import package::lib::grid::linear_id;
import package::lib::reduce::workgroup_sum;
import package::slot::rows::n_rows;
import package::slot::epilogue::{epilogue_begin, epilogue_store};

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(1) @binding(0) var<storage, read> norm_weight: array<f32>;

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
        let normed = x[first + column] * factor * norm_weight[column];
        let at = run % RUNS * N_COLS + column;
        epilogue_store(row, at, normed, 0.0, epilogue_begin(row, at));
    }
}
