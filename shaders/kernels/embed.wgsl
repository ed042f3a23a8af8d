// embed: out[t, :] = SCALE * W[id(t) - ROW_FIRST, :] for each token t with id in ROW_FIRST .. ROW_FIRST + ROW_COUNT.
//
// A table above the binding limit comes in several parts, a kernel each; rows of ids in other parts stay untouched.
// An id with bit 31 set is a row of the table of sampled ids: the token that the previous step chose.
// One workgroup a token, four columns an invocation at a time. No workgroup memory.
// Slots: weight.

import package::lib::grid::linear_id;
import package::lib::step::{SAMPLED_WORDS, step_n_tokens, step_token};
import package::slot::weight::weight_columns;

@group(0) @binding(1) var<storage, read> sampled: array<u32>;
@group(2) @binding(0) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = linear_id(workgroup, n_workgroups);
    if token >= step_n_tokens() { return; }
    var id = step_token(token).x;
    if (id >> 31u) == 1u { id = sampled[(id & 0x7fffffffu) * SAMPLED_WORDS]; }
    if id < ROW_FIRST || id - ROW_FIRST >= ROW_COUNT { return; }
    for (var quad = thread; quad < (N_COLS + 3u) / 4u; quad += WG) {
        let values = SCALE * weight_columns(id - ROW_FIRST, quad);
        for (var i = 0u; i < 4u; i++) {
            if 4u * quad + i < N_COLS { out[token * N_COLS + 4u * quad + i] = values[i]; }
        }
    }
}
