// rope_kv: rotates queries and keys by their positions; writes keys and values to the tokens' pages.
//
// Of each head the numbers i and i + ROT_DIM/2 (i < ROT_DIM/2), or with NEIGHBOURS 2i and 2i + 1, turn by the angle
// position * freqs[i], cosine and sine times ROPE_SCALE; numbers from ROT_DIM on stay. Queries go to q_out[t][N_HEADS * HEAD_DIM], keys and values to the
// slot of KV group KV_GROUP. Inputs may lie side by side in one row: number c of token t is at t * *_STRIDE + *_AT + c.
// ROPE_WGS workgroups a token share its work in items of two neighbouring numbers. Workgroup memory: 8 bytes a rotated
// pair, for cosines and sines, and what the slots take.
// Slots: heads (what comes before the rotation), kv_store.

import package::lib::grid::linear_id;
import package::lib::step::{step_n_tokens, step_token, step_slot};
import package::lib::angle::cos_sin;
import package::lib::pages::{KV_VALUE_ROWS, key_row};
import package::slot::heads::{ITEMS_AT_ONCE, head_factor, head_weight};
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

// Numbers `a` and `b` of an item's head, which is a query's, a key's or a value's.
fn numbers_of(token: u32, item: u32, a: u32, b: u32) -> vec2<f32> {
    if item < Q_ITEMS {
        let head = token * Q_STRIDE + Q_AT + item / PAIRS * HEAD_DIM;
        return vec2<f32>(q[head + a], q[head + b]);
    }
    if item < Q_ITEMS + KV_ITEMS {
        let head = token * K_STRIDE + K_AT + (item - Q_ITEMS) / PAIRS * HEAD_DIM;
        return vec2<f32>(k[head + a], k[head + b]);
    }
    let head = token * V_STRIDE + V_AT + (item - Q_ITEMS - KV_ITEMS) / PAIRS * HEAD_DIM;
    return vec2<f32>(v[head + a], v[head + b]);
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
    for (var first = id % ROPE_WGS * ITEMS_AT_ONCE; first < ITEMS; first += ROPE_WGS * ITEMS_AT_ONCE) {
        let item = first + thread;
        let d = item % PAIRS * 2u;
        let wanted = item < ITEMS && thread < ITEMS_AT_ONCE;
        var numbers = vec2<f32>();
        if wanted { numbers = numbers_of(token, item, d, d + 1u); }
        let factor = head_factor(thread, numbers);
        if wanted && item < Q_ITEMS + KV_ITEMS {
            let is_key = item >= Q_ITEMS;
            let a = partner_of(d);
            let b = partner_of(d + 1u);
            let weights = vec2<f32>(head_weight(is_key, d), head_weight(is_key, d + 1u));
            let partner_weights = vec2<f32>(head_weight(is_key, a), head_weight(is_key, b));
            let own = numbers * weights;
            let partners = numbers_of(token, item, a, b) * partner_weights;
            numbers = vec2<f32>(rotate(d, own.x, partners.x), rotate(d + 1u, own.y, partners.y)) * factor;
        }
        if wanted && item < Q_ITEMS {
            q_out[(token * Q_ITEMS + item) * 2u] = numbers.x;
            q_out[(token * Q_ITEMS + item) * 2u + 1u] = numbers.y;
        }
        // Values follow keys.
        let kv_item = item - min(item, Q_ITEMS);
        let row = key_row(slot, kv_item % KV_ITEMS / PAIRS) + select(0u, KV_VALUE_ROWS, kv_item >= KV_ITEMS);
        kv_store(thread, wanted && item >= Q_ITEMS, row, d / 2u, numbers);
    }
}
