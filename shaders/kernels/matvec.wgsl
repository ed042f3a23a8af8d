// matvec: out[r, OUT_AT + n] = epilogue(sum over k of W[n, k] * prologue(x[r])[k]), for few rows r.
//
// It reads each weight once for up to M_MAX rows of x, at the memory's speed. A workgroup owns ROWS_PER_WG rows of W
// and M_MAX rows of x. A team of lanes (a subgroup of any size; 32 neighbours in the plain tier) takes one unit after
// another: ROWS_PER_SUBGROUP rows of W and one of K_SPLIT parts of K. Teams stride over the units by their number, so
// every subgroup size is right, and best is one that leaves no team idle. Lanes stride over the unit's blocks with
// UNROLL * ROWS_PER_SUBGROUP loads in flight. x comes straight from global memory, where the caches hold it.
// Sums meet in workgroup memory: 4 * M_MAX * (ROWS_PER_WG * K_SPLIT + units) bytes, plus 4 * WG in the plain tier.
// Assumes ROWS_PER_WG a multiple of ROWS_PER_SUBGROUP, and even if the epilogue pairs columns.
// Slots: products (and with it x and weight or pairs), rows, prologue, epilogue, lanes.

import package::lib::grid::linear_id;
import package::slot::rows::n_rows;
import package::lib::sums::Sums;
import package::slot::products::{PRODUCTS_BLOCK, PRODUCTS_SCALE, Loaded, products_load, products_add};
import package::slot::prologue::{HAS_SQUARES, prologue_factor};
import package::slot::lanes::{Lanes, lane_of, n_lanes_of, team_of, n_teams_of, team_sum};
import package::slot::epilogue::{COLUMNS_PER_OUT, epilogue_store};

const WG_COLUMNS = (N + ROWS_PER_WG - 1u) / ROWS_PER_WG;
const UNITS = ROWS_PER_WG / ROWS_PER_SUBGROUP * K_SPLIT;
const N_BLOCKS = (K + PRODUCTS_BLOCK - 1u) / PRODUCTS_BLOCK;
const BLOCKS_PER_PART = (N_BLOCKS + K_SPLIT - 1u) / K_SPLIT;

var<workgroup> part_products: array<f32, ROWS_PER_WG * K_SPLIT * M_MAX>;
var<workgroup> part_squares: array<f32, UNITS * M_MAX>;

// A lane's share of a unit: blocks first, first + stride .. below end.
fn walk(w_row: u32, first: u32, end: u32, stride: u32, x_row: u32, x_last: u32) -> Sums {
    var sums: Sums;
    var block = first;
    for (; block + (UNROLL - 1u) * stride < end; block += UNROLL * stride) {
        var loaded: array<array<Loaded, ROWS_PER_SUBGROUP>, UNROLL>;
        for (var u = 0u; u < UNROLL; u++) {
            for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) { loaded[u][r] = products_load(min(w_row + r, N - 1u), block + u * stride); }
        }
        for (var u = 0u; u < UNROLL; u++) { products_add(loaded[u], block + u * stride, x_row, x_last, &sums); }
    }
    if UNROLL > 1u {
        for (; block < end; block += stride) {
            var loaded: array<Loaded, ROWS_PER_SUBGROUP>;
            for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) { loaded[r] = products_load(min(w_row + r, N - 1u), block); }
            products_add(loaded, block, x_row, x_last, &sums);
        }
    }
    return sums;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    lanes: Lanes,
) {
    let id = linear_id(workgroup, n_workgroups);
    let w_first = id % WG_COLUMNS * ROWS_PER_WG;
    let x_first = id / WG_COLUMNS * M_MAX;
    let x_end = n_rows();
    if x_first >= x_end { return; }

    for (var base = 0u; base < UNITS; base += n_teams_of(lanes)) {
        let unit = base + team_of(lanes);
        let part_first = unit % K_SPLIT * BLOCKS_PER_PART;
        let w_row = w_first + unit / K_SPLIT * ROWS_PER_SUBGROUP;
        var sums: Sums;
        if unit < UNITS && w_row < N {
            let part_end = min(part_first + BLOCKS_PER_PART, N_BLOCKS);
            sums = walk(w_row, part_first + lane_of(lanes), part_end, n_lanes_of(lanes), x_first, x_end - 1u);
        }
        for (var i = 0u; i < ROWS_PER_SUBGROUP * M_MAX; i++) {
            let sum = team_sum(sums.products[i], lanes);
            if lane_of(lanes) == 0u && unit < UNITS { part_products[unit * ROWS_PER_SUBGROUP * M_MAX + i] = sum; }
        }
        if HAS_SQUARES {
            for (var m = 0u; m < M_MAX; m++) {
                let sum = team_sum(sums.squares[m], lanes);
                if lane_of(lanes) == 0u && unit < UNITS { part_squares[unit * M_MAX + m] = sum; }
            }
        }
    }
    workgroupBarrier();

    let n_out = ROWS_PER_WG / COLUMNS_PER_OUT;
    for (var i = thread; i < n_out * M_MAX; i += WG) {
        let column = i % n_out;
        let m = i / n_out;
        if x_first + m < x_end && w_first + column * COLUMNS_PER_OUT < N {
            let first = total(column * COLUMNS_PER_OUT, m);
            let second = total(column * COLUMNS_PER_OUT + COLUMNS_PER_OUT - 1u, m);
            epilogue_store(x_first + m, w_first / COLUMNS_PER_OUT + column, first, second);
        }
    }
}

// The product of the workgroup's row `row` of W and row `m` of x: its parts of K summed, the prologue's factor applied.
fn total(row: u32, m: u32) -> f32 {
    let unit = row / ROWS_PER_SUBGROUP * K_SPLIT;
    var sum = 0.0;
    var squares = 0.0;
    for (var part = 0u; part < K_SPLIT; part++) {
        sum += part_products[((unit + part) * ROWS_PER_SUBGROUP + row % ROWS_PER_SUBGROUP) * M_MAX + m];
        if HAS_SQUARES { squares += part_squares[(unit + part) * M_MAX + m]; }
    }
    return sum * PRODUCTS_SCALE * prologue_factor(squares);
}
