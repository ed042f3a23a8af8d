// rope_kv: rotates queries and keys by their positions; writes keys and values to the tokens' pages.
//
// Of each head the numbers i and i + ROT_DIM/2 (i < ROT_DIM/2), or with NEIGHBOURS 2i and 2i + 1, turn by the angle
// position * freqs[i], cosine and sine times ROPE_SCALE; numbers from ROT_DIM on stay. Queries go to q_out[t][N_HEADS * HEAD_DIM], keys and values to the
// slot of KV group KV_GROUP. Inputs may lie side by side in one row: number c of token t is at t * *_STRIDE + *_AT + c.
// ROPE_WGS workgroups a token share its work in items of two neighbouring numbers. Workgroup memory: 8 bytes a rotated
// pair, for cosines and sines, and what kv_store takes.
// Slots: kv_store.

import package::lib::grid::linear_id;
import package::lib::step::{step_n_tokens, step_token, step_slot};
import package::lib::angle::cos_sin;
import package::lib::pages::{KV_VALUE_ROWS, key_row};
import package::slot::kv_store::kv_store;

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(1) @binding(0) var<storage, read> freqs: array<f32>;
@group(2) @binding(0) var<storage, read_write> q_out: array<f32>;

const HALF = ROT_DIM / 2u;
const PAIRS = HEAD_DIM / 2u;
const Q_ITEMS = N_HEADS * PAIRS;
const KV_ITEMS = N_KV_HEADS * PAIRS;
const ITEMS = Q_ITEMS + 2u * KV_ITEMS;

var<workgroup> turns: array<vec2<f32>, HALF>;

// Number `d` of a rotated head, from it and its partner.
fn rotate(d: u32, own: f32, partner: f32) -> f32 {
    if d >= ROT_DIM { return own; }
    let turn = turns[select(d % HALF, d / 2u, NEIGHBOURS == 1u)];
    let is_first = select(d < HALF, d % 2u == 0u, NEIGHBOURS == 1u);
    return own * turn.x + select(partner, -partner, is_first) * turn.y;
}

// The number that `d` turns with.
fn partner_of(d: u32) -> u32 {
    let partner = select(select(d - HALF, d + HALF, d < HALF), d ^ 1u, NEIGHBOURS == 1u);
    return select(d, partner, d < ROT_DIM);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let token = id / ROPE_WGS;
    if token >= step_n_tokens() { return; }
    let position = step_token(token).y;
    for (var i = thread; i < HALF; i += WG) { turns[i] = cos_sin(position, freqs[i]) * ROPE_SCALE; }
    workgroupBarrier();

    let slot = step_slot(KV_GROUP, token);
    for (var first = id % ROPE_WGS * WG; first < ITEMS; first += ROPE_WGS * WG) {
        let item = first + thread;
        var row = key_row(slot, 0u);
        var pair = 0u;
        var numbers = vec2<f32>();
        if item < Q_ITEMS {
            let head = token * Q_STRIDE + Q_AT + item / PAIRS * HEAD_DIM;
            let d = item % PAIRS * 2u;
            q_out[(token * Q_ITEMS + item) * 2u] = rotate(d, q[head + d], q[head + partner_of(d)]);
            q_out[(token * Q_ITEMS + item) * 2u + 1u] = rotate(d + 1u, q[head + d + 1u], q[head + partner_of(d + 1u)]);
        } else if item < Q_ITEMS + KV_ITEMS {
            let own = item - Q_ITEMS;
            let head = token * K_STRIDE + K_AT + own / PAIRS * HEAD_DIM;
            pair = own % PAIRS;
            let d = pair * 2u;
            row = key_row(slot, own / PAIRS);
            numbers = vec2<f32>(
                rotate(d, k[head + d], k[head + partner_of(d)]),
                rotate(d + 1u, k[head + d + 1u], k[head + partner_of(d + 1u)]),
            );
        } else if item < ITEMS {
            let own = item - Q_ITEMS - KV_ITEMS;
            let at = token * V_STRIDE + V_AT + own * 2u;
            pair = own % PAIRS;
            row = key_row(slot, own / PAIRS) + KV_VALUE_ROWS;
            numbers = vec2<f32>(v[at], v[at + 1u]);
        }
        kv_store(thread, item >= Q_ITEMS && item < ITEMS, row, pair, numbers);
    }
}
