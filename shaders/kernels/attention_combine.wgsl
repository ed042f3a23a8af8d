// attention_combine: out[t, h, :] = sum over parts p of w[p] * x[p, h, :] / sum over p of w[p] * sum[p, h], w[p] = exp(maximum[p, h] - greatest).
//
// Joins what the tiles of attention_decode left of each token: HEAD_DIM values, a maximum and a sum a head. All tokens
// of a step have equally many tiles. One workgroup a (token, head). Workgroup memory: 8 * PARTS bytes.
// Assumes tiles of one query, in the order of tokens, at most PARTS a token.
// Slots: out.

import package::lib::grid::linear_id;
import package::lib::step::{step_n_tokens, step_tile};
import package::slot::out::out_store;

@group(0) @binding(1) var<storage, read> x: array<f32>;

// Loads in flight.
const AHEAD = 16u;

// Of each part: its maximum, then its weight; and its weighted sum.
var<workgroup> weights: array<f32, PARTS>;
var<workgroup> sums: array<f32, PARTS>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let token = id / N_HEADS;
    let head = id % N_HEADS;
    if token >= step_n_tokens() { return; }
    let n_parts = min(step_tile(0u).w, PARTS);
    let first = token * n_parts;
    for (var part = thread; part < n_parts; part += WG) {
        weights[part] = x[row_of(first + part, head) + HEAD_DIM];
        sums[part] = x[row_of(first + part, head) + HEAD_DIM + 1u];
    }
    workgroupBarrier();
    var greatest = -3e38;
    for (var part = 0u; part < n_parts; part++) { greatest = max(greatest, weights[part]); }
    workgroupBarrier();
    for (var part = thread; part < n_parts; part += WG) {
        weights[part] = exp(max(weights[part] - greatest, -100.0));
        sums[part] *= weights[part];
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var part = 0u; part < n_parts; part++) { sum += sums[part]; }
    for (var column = thread; column < HEAD_DIM; column += WG) {
        var value = 0.0;
        for (var part = 0u; part < n_parts; part += AHEAD) {
            var loaded: array<f32, AHEAD>;
            for (var i = 0u; i < AHEAD; i++) { loaded[i] = x[row_of(first + min(part + i, n_parts - 1u), head) + column]; }
            for (var i = 0u; i < AHEAD; i++) { value += select(0.0, weights[min(part + i, n_parts - 1u)], part + i < n_parts) * loaded[i]; }
        }
        out_store(token * N_HEADS * HEAD_DIM, head * HEAD_DIM + column, value / sum);
    }
}

fn row_of(tile: u32, head: u32) -> u32 { return (tile * N_HEADS + head) * (HEAD_DIM + 2u); }
