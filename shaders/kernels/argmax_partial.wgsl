// argmax_partial: out[r, b] = (bits of the value, index) of the greatest of x[r, b * BLOCK .. (b + 1) * BLOCK].
//
// Equal values: the lowest index. One workgroup a (row, block). Workgroup memory: 8 * WG bytes.
// Slots: rows.

import package::lib::grid::linear_id;
import package::lib::best::{best_none, best_of, workgroup_best, Best};
import package::slot::rows::n_rows;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(2) @binding(0) var<storage, read_write> out: array<vec2<u32>>;

const N_PARTIAL = (N + BLOCK - 1u) / BLOCK;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let row = id / N_PARTIAL;
    let first = id % N_PARTIAL * BLOCK;
    if row >= n_rows() { return; }
    var own = best_none();
    for (var ix = first + thread; ix < min(first + BLOCK, N); ix += WG) { own = best_of(own, Best(x[row * N + ix], ix)); }
    let winner = workgroup_best(own, thread);
    if thread == 0u { out[id] = vec2<u32>(bitcast<u32>(winner.value), winner.index); }
}
