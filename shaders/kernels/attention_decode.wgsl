// attention_decode: as attention, one query a tile: out[t, h, :] = sum over j of softmax over j of (SCALE * q[t, h] . K[j]) * V[j].
//
// One workgroup a (tile: query and part of its KV, group of HEADS query heads that share a KV head). The tokens that
// the query sees are counted from 0 (the first KEEP, then the window) and dealt out in parts to the tiles, in the parts to
// clusters of 8 lanes. A cluster takes TOKENS tokens at a time, each lane HEAD_DIM / 8 numbers of them, and keeps a
// maximum, a sum and the weighted values of its own; the clusters of a subgroup meet, then the subgroups, head by head.
// With PARTS 0 the result is stored; else each tile leaves values, maximum and sum for attention_combine, HEAD_DIM + 2
// numbers a head.
// Workgroup memory: 4 * WG / 8 * (HEAD_DIM + 2 * HEADS) bytes.
// Assumes subgroups of 8 lanes or more; HEAD_DIM a multiple of 64; HEADS divides the query heads of a KV head.
// Slots: kv, out, cluster, lanes (subgroups).

import package::lib::grid::linear_id;
import package::lib::step::{step_n_tiles, step_tile, step_sequence};
import package::slot::out::out_store;
import package::slot::cluster::cluster_attention;
import package::slot::lanes::Lanes;

const GROUPS = N_HEADS / HEADS;
const N_CLUSTERS = WG / 8u;
// Subgroups at most.
const MOST_TEAMS = WG / 8u;
const MASKED = -3e38;

// Of each head of the group: the subgroups' maxima and sums, and one head's weighted values.
var<workgroup> team_maximum: array<f32, HEADS * MOST_TEAMS>;
var<workgroup> team_sum_of: array<f32, HEADS * MOST_TEAMS>;
var<workgroup> team_values: array<f32, MOST_TEAMS * HEAD_DIM>;

// Where the query's sequence, KV and head group are.
struct Part {
    // Number of the tile, first query head, KV head, the query's token.
    tile: u32,
    head: u32,
    kv_head: u32,
    token: u32,
    // Row of the page table; visible tokens below `keep` are themselves, others `skip` further on.
    page_row: u32,
    keep: u32,
    skip: u32,
    // Visible tokens of this part.
    first: u32,
    end: u32,
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    lanes: Lanes,
) {
    let id = linear_id(workgroup, n_workgroups);
    // A workgroup past the tiles does the last one's work again: to return would be to wait for their number first.
    let tile_ix = min(id / GROUPS, step_n_tiles() - 1u);
    // Mostly a tile is the whole of the sequence of its number, which is loaded beside it rather than after it.
    let tile = step_tile(tile_ix);
    var sequence = step_sequence(tile_ix);
    if tile.x != tile_ix { sequence = step_sequence(tile.x); }
    var part: Part;
    part.tile = tile_ix;
    part.head = id % GROUPS * HEADS;
    part.kv_head = part.head / (N_HEADS / N_KV_HEADS);
    part.token = sequence.x + tile.y;
    part.page_row = sequence.w;
    let kv_len = sequence.z - sequence.y + tile.y + 1u;
    let window_from = select(0u, kv_len - min(kv_len, WINDOW), WINDOW > 0u);
    part.keep = min(KEEP, window_from);
    part.skip = window_from - part.keep;
    let n_visible = kv_len - part.skip;
    let per_part = (n_visible + tile.w - 1u) / tile.w;
    part.first = min(tile.z * per_part, n_visible);
    part.end = min(part.first + per_part, n_visible);
    cluster_attention(part, lanes, thread);
}

// Column `column` of one head, not yet normalized.
fn head_value(column: u32, n_teams: u32) -> f32 {
    var value = 0.0;
    for (var team = 0u; team < n_teams; team++) { value += team_values[team * HEAD_DIM + column]; }
    return value;
}

// The greatest of the subgroups' maxima.
fn head_maximum(head: u32, n_teams: u32) -> f32 {
    var greatest = MASKED;
    for (var team = 0u; team < n_teams; team++) { greatest = max(greatest, team_maximum[head * MOST_TEAMS + team]); }
    return greatest;
}

// The sum of the weights under a maximum.
fn head_sum(head: u32, maximum: f32, n_teams: u32) -> f32 {
    var sum = 0.0;
    for (var team = 0u; team < n_teams; team++) {
        let own = head * MOST_TEAMS + team;
        sum += team_sum_of[own] * exp(max(team_maximum[own] - maximum, -100.0));
    }
    return sum;
}

// Stores one head's column.
fn store_head(part: Part, head: u32, column: u32, maximum: f32, n_teams: u32) {
    let sum = head_sum(head, maximum, n_teams);
    if PARTS == 0u {
        out_store(part.token * N_HEADS * HEAD_DIM, (part.head + head) * HEAD_DIM + column, head_value(column, n_teams) / sum);
    } else {
        let at = (part.tile * N_HEADS + part.head + head) * (HEAD_DIM + 2u);
        out_store(at, column, head_value(column, n_teams));
        if column == 0u {
            out_store(at, HEAD_DIM, maximum);
            out_store(at, HEAD_DIM + 1u, sum);
        }
    }
}
