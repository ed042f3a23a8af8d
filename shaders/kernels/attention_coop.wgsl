// attention_coop: as attention, on matrix units: out[t, h, :] = sum over j of softmax over j of (SCALE * q[t, h] . K[j]) * V[j].
//
// A workgroup has HEADS subgroups of LANES invocations, each with one query head of the same tile of Q_TILE queries, heads that
// share a KV head. It walks the pages that the tile sees, KV_BLOCK tokens at a time: keys go through workgroup memory, then scores as
// cooperative matrices of SIDE x SIDE, of which a subgroup's lanes make weights in f16, then values, and weighted values are
// matrices again.
// Sums stay in matrices, which no lane can scale. So weights are exp(score - reference), and a query's reference grows only
// when a score has passed it by HEADROOM: then sums go through workgroup memory once. Weights are at most
// exp(HEADROOM + LIFT), a number of f16; LIFT keeps small ones from being lost there.
// Tokens past the sequence's last have weight 0 and count as values of 0, whatever lies there. Pages that may be gone are not read.
// Workgroup memory: HEADS * Q_TILE * (4 * (KV_BLOCK + 4) + 2 * (KV_BLOCK + 8)) bytes, 2 * KV_BLOCK * (HEAD_DIM + 8), and 16.
// Assumes subgroups of exactly LANES, numbered in the order of their invocations; keys and values of at most 16 bits; HEAD_DIM, Q_TILE and
// KV_BLOCK multiples of SIDE, KV_BLOCK of 16, LANES of SIDE; HEADS divides the query heads of a KV head. Queries, weights,
// and keys and values of other types are rounded to f16, sums are f32.
// Slots: kv, halves, out; the unit of a subgroup is generated.

import package::lib::grid::linear_id;
import package::lib::pages::PAGE_TOKENS;
import package::lib::step::{step_n_tiles, step_tile, step_sequence};
import package::lib::visible::window_begin;
import package::slot::unit::unit_attention;

const GROUPS = N_HEADS / HEADS;

// A tile of queries, and the pages that some of them see: the first `keep_pages` of the sequence, then those from `window_page`
// on.
struct Tile {
    n_queries: u32,
    // The first query's token of the step, and its position.
    token: u32,
    position: u32,
    // Tokens of the sequence, this step's included.
    kv_len: u32,
    // Row of the page table.
    page_row: u32,
    keep_pages: u32,
    window_page: u32,
    n_pages: u32,
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    if id / GROUPS >= step_n_tiles() { return; }
    let place = step_tile(id / GROUPS);
    let sequence = step_sequence(place.x);
    let first_query = place.y * Q_TILE;
    if first_query >= sequence.y { return; }
    var tile: Tile;
    tile.n_queries = min(Q_TILE, sequence.y - first_query);
    tile.token = sequence.x + first_query;
    tile.position = sequence.z - sequence.y + first_query;
    tile.kv_len = sequence.z;
    tile.page_row = sequence.w;
    tile.window_page = window_begin(tile.position) / PAGE_TOKENS;
    tile.keep_pages = min((KEEP + PAGE_TOKENS - 1u) / PAGE_TOKENS, tile.window_page);
    let end_page = (tile.position + tile.n_queries + PAGE_TOKENS - 1u) / PAGE_TOKENS;
    tile.n_pages = tile.keep_pages + end_page - tile.window_page;
    unit_attention(tile, id % GROUPS * HEADS + subgroup, subgroup, lane, thread);
}
