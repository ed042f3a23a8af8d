// attention: out[t, h, :] = sum over j of softmax over j of (SCALE * q[t, h] . K[j]) * V[j], j the tokens that t sees.
//
// A query at position p sees j <= p; with a WINDOW only j > p - WINDOW or j < KEEP. SOFTCAP c > 0 makes a score s
// c * tanh(s / c). One workgroup a (tile of Q_TILE queries of one sequence, head); it walks the KV in blocks of KV_BLOCK
// tokens, skips blocks that no query sees, and keeps a running maximum and sum (online softmax). Scores: one token
// an invocation, for every (WG / KV_BLOCK)-th query. Outputs: two numbers of the values an invocation;
// invocations left over share the queries, then the block's tokens.
// Workgroup memory: queries 4 * Q_TILE * HEAD_DIM (rounded up to 8), scores 4 * Q_TILE * KV_BLOCK, maxima 64 * Q_TILE,
// and the sums of shared tokens; 22 KiB for 16 queries of 256 numbers.
// Assumes: KV_BLOCK divides WG and is a multiple of 16; HEAD_DIM even, at most 2 * WG; Q_TILE <= WG / 16; kv_split 0 of 1.
// Masked tokens are never read (their pages may be gone): a visible token of the block stands in with weight 0.
// Slots: kv, out.

import package::lib::grid::linear_id;
import package::lib::step::{step_n_tiles, step_tile, step_sequence};
import package::lib::pages::{KV_VALUE_ROWS, PAGE_TOKENS, key_row};
import package::slot::kv::{KvPair, high_quad, kv_pair, kv_piece, low_quad, pair_numbers};
import package::lib::visible::{sees, window_begin};
import package::slot::out::out_store;

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(3) @binding(1) var<storage, read> page_table: array<u32>;

const MASKED = -3e38;
const PIECES = (HEAD_DIM + 7u) / 8u;
const PAIRS = HEAD_DIM / 2u;
// Scores: groups of KV_BLOCK invocations, and queries of each.
const SCORE_GROUPS = WG / KV_BLOCK;
const SCORE_QUERIES = (Q_TILE + SCORE_GROUPS - 1u) / SCORE_GROUPS;
// Maxima: 16 invocations a query.
const SCAN = 16u;
// Outputs: groups of PAIRS invocations; they share the queries, then the tokens.
const OUT_GROUPS = WG / PAIRS;
const QUERY_GROUPS = min(OUT_GROUPS, Q_TILE);
const TOKEN_GROUPS = OUT_GROUPS / QUERY_GROUPS;
const OUT_QUERIES = (Q_TILE + QUERY_GROUPS - 1u) / QUERY_GROUPS;
// Values that an invocation loads before it uses the first.
const VALUES_AHEAD = 16u;
// Sums that token groups exchange; one if there is one group.
const SHARED_SUMS = min(TOKEN_GROUPS - 1u, 1u) * TOKEN_GROUPS * Q_TILE * PAIRS + 1u;

var<workgroup> queries: array<vec4<f32>, Q_TILE * PIECES * 2u>;
var<workgroup> scores: array<f32, Q_TILE * KV_BLOCK>;
var<workgroup> key_rows: array<u32, KV_BLOCK>;
var<workgroup> maxima: array<f32, Q_TILE * SCAN>;
var<workgroup> new_maximum: array<f32, Q_TILE>;
var<workgroup> rescale: array<f32, Q_TILE>;
var<workgroup> shared_sums: array<vec3<f32>, SHARED_SUMS>;

fn load_query(at: u32, d: u32) -> f32 {
    if d >= HEAD_DIM { return 0.0; }
    return q[at + d] * SCALE;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let head = id % N_HEADS;
    if id / N_HEADS >= step_n_tiles() { return; }
    let tile = step_tile(id / N_HEADS);
    let sequence = step_sequence(tile.x);
    let first_query = tile.y * Q_TILE;
    if first_query >= sequence.y { return; }
    let n_queries = min(Q_TILE, sequence.y - first_query);
    let first_token = sequence.x + first_query;
    let first_position = sequence.z - sequence.y + first_query;
    // Tokens that some query sees: below `end`, and from `window_from` on or below KEEP.
    let end = first_position + n_queries;
    let window_from = window_begin(first_position);
    let kv_head = head / (N_HEADS / N_KV_HEADS);

    for (var i = thread; i < Q_TILE * PIECES * 2u; i += WG) {
        let query = i / (PIECES * 2u);
        let d = i % (PIECES * 2u) * 4u;
        var value = vec4<f32>();
        if query < n_queries {
            let at = ((first_token + query) * N_HEADS + head) * HEAD_DIM;
            value = vec4<f32>(load_query(at, d), load_query(at, d + 1u), load_query(at, d + 2u), load_query(at, d + 3u));
        }
        queries[i] = value;
    }
    workgroupBarrier();

    let score_token = thread % KV_BLOCK;
    let score_group = thread / KV_BLOCK;
    let pair = thread % PAIRS;
    let query_group = thread / PAIRS % QUERY_GROUPS;
    let token_group = thread / PAIRS / QUERY_GROUPS;
    // Of invocation i < Q_TILE: query i's maximum so far.
    var maximum = MASKED;
    // x, y: two numbers of the output; z: sum of the weights.
    var sums: array<vec3<f32>, OUT_QUERIES>;

    var base = 0u;
    loop {
        if WINDOW > 0u && base >= KEEP { base = max(base, window_from / KV_BLOCK * KV_BLOCK); }
        if base >= end { break; }
        let n_tokens = min(KV_BLOCK, end - base);

        // Scores of one token.
        let token = base + score_token;
        let visible = token < end && (token < KEEP || token >= window_from);
        let read_token = select(select(window_from, base, base < KEEP || base >= window_from), token, visible);
        let page = page_table[sequence.w * MAX_PAGES + read_token / PAGE_TOKENS];
        let key = key_row(page * PAGE_TOKENS + read_token % PAGE_TOKENS, kv_head);
        if score_group == 0u { key_rows[score_token] = key; }
        var dots: array<f32, SCORE_QUERIES>;
        for (var piece = 0u; piece < PIECES; piece++) {
            let eight = kv_piece(key, piece);
            let low = low_quad(eight);
            let high = high_quad(eight);
            for (var i = 0u; i < SCORE_QUERIES; i++) {
                let at = (min(score_group + i * SCORE_GROUPS, Q_TILE - 1u) * PIECES + piece) * 2u;
                dots[i] += dot(queries[at], low) + dot(queries[at + 1u], high);
            }
        }
        for (var i = 0u; i < SCORE_QUERIES; i++) {
            let query = score_group + i * SCORE_GROUPS;
            if query < Q_TILE {
                var score = dots[i];
                if SOFTCAP > 0.0 { score = SOFTCAP * tanh(clamp(score / SOFTCAP, -15.0, 15.0)); }
                scores[query * KV_BLOCK + score_token] = select(MASKED, score, visible && sees(first_position + query, token));
            }
        }
        workgroupBarrier();

        // The maximum of each query, and what its earlier sums are worth under it.
        if thread < Q_TILE * SCAN {
            var greatest = MASKED;
            for (var j = thread % SCAN; j < KV_BLOCK; j += SCAN) {
                greatest = max(greatest, scores[thread / SCAN * KV_BLOCK + j]);
            }
            maxima[thread] = greatest;
        }
        workgroupBarrier();
        if thread < Q_TILE {
            var greatest = maximum;
            for (var i = 0u; i < SCAN; i++) { greatest = max(greatest, maxima[thread * SCAN + i]); }
            new_maximum[thread] = greatest;
            rescale[thread] = exp(max(maximum - greatest, -100.0));
            maximum = greatest;
        }
        workgroupBarrier();

        // Scores become weights.
        for (var i = 0u; i < SCORE_QUERIES; i++) {
            let query = score_group + i * SCORE_GROUPS;
            if query < Q_TILE {
                let at = query * KV_BLOCK + score_token;
                let score = scores[at];
                scores[at] = select(exp(score - new_maximum[query]), 0.0, score <= 0.5 * MASKED);
            }
        }
        workgroupBarrier();

        // Weighted sums of the values.
        if token_group < TOKEN_GROUPS {
            for (var i = 0u; i < OUT_QUERIES; i++) { sums[i] *= rescale[min(query_group + i * QUERY_GROUPS, Q_TILE - 1u)]; }
            // Tokens from n_tokens on have weight 0 and something to read, up to KV_BLOCK.
            for (var first = token_group; first < n_tokens; first += TOKEN_GROUPS * VALUES_AHEAD) {
                var pairs: array<KvPair, VALUES_AHEAD>;
                for (var u = 0u; u < VALUES_AHEAD; u++) {
                    let j = min(first + u * TOKEN_GROUPS, KV_BLOCK - 1u);
                    pairs[u] = kv_pair(key_rows[j] + KV_VALUE_ROWS, pair);
                }
                for (var u = 0u; u < VALUES_AHEAD; u++) {
                    let j = first + u * TOKEN_GROUPS;
                    if j < KV_BLOCK {
                        let value = vec3<f32>(pair_numbers(pairs[u]), 1.0);
                        for (var i = 0u; i < OUT_QUERIES; i++) {
                            sums[i] += scores[min(query_group + i * QUERY_GROUPS, Q_TILE - 1u) * KV_BLOCK + j] * value;
                        }
                    }
                }
            }
        }
        workgroupBarrier();
        base += KV_BLOCK;
    }

    if TOKEN_GROUPS > 1u {
        // Then each group has one query.
        if token_group < TOKEN_GROUPS { shared_sums[(token_group * Q_TILE + query_group) * PAIRS + pair] = sums[0]; }
        workgroupBarrier();
        if token_group == 0u {
            for (var i = 1u; i < TOKEN_GROUPS; i++) { sums[0] += shared_sums[(i * Q_TILE + query_group) * PAIRS + pair]; }
        }
    }
    if token_group == 0u {
        for (var i = 0u; i < OUT_QUERIES; i++) {
            let query = query_group + i * QUERY_GROUPS;
            if query < n_queries {
                let row = (first_token + query) * N_HEADS * HEAD_DIM;
                let column = head * HEAD_DIM + 2u * pair;
                out_store(row, column, sums[i].x / sums[i].z);
                out_store(row, column + 1u, sums[i].y / sums[i].z);
            }
        }
    }
}
