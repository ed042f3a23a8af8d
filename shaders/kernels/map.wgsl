// map: out[r, OUT_AT + c] = epilogue(x[r, c]), number by number.
//
// Takes what no other kernel absorbed. x has N_COLS columns; an epilogue that pairs columns leaves half of them.
// WG results a workgroup, ceil(results a row / WG) workgroups a row. No workgroup memory.
// Slots: rows, epilogue.

import package::lib::grid::linear_id;
import package::slot::rows::n_rows;
import package::slot::epilogue::{COLUMNS_PER_OUT, epilogue_begin, epilogue_store};

@group(0) @binding(1) var<storage, read> x: array<f32>;

const N_OUT = N_COLS / COLUMNS_PER_OUT;
const WGS_PER_ROW = (N_OUT + WG - 1u) / WG;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let row = id / WGS_PER_ROW;
    let column = id % WGS_PER_ROW * WG + thread;
    if row >= n_rows() || column >= N_OUT { return; }
    let at = row * N_COLS + column * COLUMNS_PER_OUT;
    epilogue_store(row, column, x[at], x[at + COLUMNS_PER_OUT - 1u], epilogue_begin(row, column));
}
