// gather_rows: out[r, :] = x[row(r), :] for each wanted row r; row(r) is the index of its token.
//
// One workgroup a row. No workgroup memory.

import package::lib::grid::linear_id;
import package::lib::step::{step_n_rows, step_row};

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(2) @binding(0) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = linear_id(workgroup, n_workgroups);
    if row >= step_n_rows() { return; }
    let source = step_row(row) * N_COLS;
    for (var column = thread; column < N_COLS; column += WG) { out[row * N_COLS + column] = x[source + column]; }
}
