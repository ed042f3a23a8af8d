// argmax_final: sampled[r] = index of the greatest of row r's N_PARTIAL block winners x[r, b] = (bits of the value, index).
//
// Equal values: the lowest index. One workgroup a row. Workgroup memory: 8 * WG bytes.
// Slots: rows.

import package::lib::grid::linear_id;
import package::lib::best::{best_none, best_of, workgroup_best, Best};
import package::slot::rows::n_rows;

@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;
@group(2) @binding(0) var<storage, read_write> sampled: array<u32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = linear_id(workgroup, n_workgroups);
    if row >= n_rows() { return; }
    var own = best_none();
    for (var ix = thread; ix < N_PARTIAL; ix += WG) {
        let entry = x[row * N_PARTIAL + ix];
        own = best_of(own, Best(bitcast<f32>(entry.x), entry.y));
    }
    let winner = workgroup_best(own, thread);
    if thread == 0u { sampled[row] = winner.index; }
}
