// moe_sum: out[r, OUT_AT + c] = epilogue(sum over s of share[r, s] * x[r, s, c]): what a row's TOP_K experts left, N_COLS
// columns each, by the shares of its route.
//
// WG results a workgroup, ceil(N_COLS / WG) workgroups a row. No workgroup memory.
// Slots: rows, epilogue.

import package::lib::grid::linear_id;
import package::slot::rows::n_rows;
import package::slot::epilogue::{epilogue_begin, epilogue_store};

@group(0) @binding(1) var<storage, read> x: array<f32>;
// For each row TOP_K ids, then TOP_K shares.
@group(0) @binding(3) var<storage, read> route: array<f32>;

const WGS_PER_ROW = (N_COLS + WG - 1u) / WG;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let row = id / WGS_PER_ROW;
    let column = id % WGS_PER_ROW * WG + thread;
    if row >= n_rows() || column >= N_COLS { return; }
    var sum = 0.0;
    for (var s = 0u; s < TOP_K; s++) {
        sum += route[(2u * row + 1u) * TOP_K + s] * x[(row * TOP_K + s) * N_COLS + column];
    }
    epilogue_store(row, column, sum, 0.0, epilogue_begin(row, column));
}
