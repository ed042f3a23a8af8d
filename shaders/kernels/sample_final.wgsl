// sample_final: sampled[r] = (id, its log-probability): the id that row r's logits x[r, :] are best in by sample_partial's parts, of
// rows that do not filter.
//
// The log-probability is of rows that tell it. One workgroup a row. Workgroup memory: 16 * WG bytes. Slots: rows.

import package::lib::grid::linear_id;
import package::lib::choice::{FILTERS, TELLS, choice_flags};
import package::lib::chosen::chosen;
import package::lib::part::{part_from, part_none, part_of, workgroup_part};
import package::slot::rows::n_rows;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> parts: array<vec4<u32>>;

const N_PARTIAL = (N + BLOCK - 1u) / BLOCK;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = linear_id(workgroup, n_workgroups);
    if row >= n_rows() || (choice_flags(row) & FILTERS) != 0u { return; }
    var own = part_none();
    for (var block = thread; block < N_PARTIAL; block += WG) {
        own = part_of(own, part_from(parts[row * N_PARTIAL + block]));
    }
    let whole = workgroup_part(own, thread);
    if thread > 0u { return; }
    var logprob = 0.0;
    if (choice_flags(row) & TELLS) != 0u { logprob = x[row * N + whole.id] - whole.top - log(whole.sum); }
    chosen(row, whole.id, logprob);
}
