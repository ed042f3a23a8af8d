// A unit of a matrix-vector product in single precision.
//
// Every provider of units has unit_begin, which invocations call first, PRODUCTS_SCALE, a product's worth in units of its
// sum, and unit_products: a team's share of unit `unit` (if there is one) of the workgroup whose first row of W is `w_first` from row `w_base` on, for the M_MAX rows of x from `x_first`
// (row `x_last` stands in for missing ones). The sums come to lie in lib/sums. Must be called in uniform control flow.

import package::lib::sums::{UNITS, part_products, part_squares};
import package::slot::x::x_quad;
import package::slot::prologue::{HAS_SQUARES, prologue_weight, prologue_square};
import package::slot::weight::{BLOCK, Block, weight_load, weight_place, weight_quad, weight_finish};
import package::slot::lanes::{Lanes, lane_of, n_lanes_of, team_sum};

const PRODUCTS_SCALE = 1.0;
const N_BLOCKS = (K + BLOCK - 1u) / BLOCK;
const BLOCKS_PER_PART = (N_BLOCKS + K_SPLIT - 1u) / K_SPLIT;

// What a lane sums up: products [row of W][row of x], and squares of x.
struct Sums { products: array<f32, ROWS_PER_SUBGROUP * M_MAX>, squares: array<f32, M_MAX> }

fn unit_begin(thread: u32) {}

fn unit_products(unit: u32, w_base: u32, w_first: u32, x_first: u32, x_last: u32, lanes: Lanes) {
    let part_first = unit % K_SPLIT * BLOCKS_PER_PART;
    let w_row = w_first + unit / K_SPLIT * ROWS_PER_SUBGROUP;
    var sums: Sums;
    if unit < UNITS && w_row < N {
        let part_end = min(part_first + BLOCKS_PER_PART, N_BLOCKS);
        sums = walk(w_base, w_row, part_first + lane_of(lanes), part_end, n_lanes_of(lanes), x_first, x_last);
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

// A lane's share of a unit: blocks first, first + stride .. below end.
fn walk(w_base: u32, w_row: u32, first: u32, end: u32, stride: u32, x_row: u32, x_last: u32) -> Sums {
    var sums: Sums;
    var block = first;
    for (; block + (UNROLL - 1u) * stride < end; block += UNROLL * stride) {
        var loaded: array<array<Block, ROWS_PER_SUBGROUP>, UNROLL>;
        for (var u = 0u; u < UNROLL; u++) {
            for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) { loaded[u][r] = weight_load(w_base + min(w_row + r, N - 1u), block + u * stride); }
        }
        for (var u = 0u; u < UNROLL; u++) { products_add(loaded[u], block + u * stride, x_row, x_last, &sums); }
    }
    if UNROLL > 1u {
        for (; block < end; block += stride) {
            var loaded: array<Block, ROWS_PER_SUBGROUP>;
            for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) { loaded[r] = weight_load(w_base + min(w_row + r, N - 1u), block); }
            products_add(loaded, block, x_row, x_last, &sums);
        }
    }
    return sums;
}

// Adds a block of ROWS_PER_SUBGROUP rows of W times the rows of x from `x_row` (the last one stands in for missing ones).
fn products_add(w: array<Block, ROWS_PER_SUBGROUP>, block: u32, x_row: u32, x_last: u32, sums: ptr<function, Sums>) {
    var blocks = w;
    var products: array<f32, ROWS_PER_SUBGROUP * M_MAX>;
    var x_sums: array<f32, M_MAX>;
    for (var quad = 0u; quad < BLOCK / 4u; quad++) {
        let x_at = block * (BLOCK / 4u) + weight_place(block, quad);
        let x_weight = prologue_weight(x_at);
        var columns: array<vec4<f32>, ROWS_PER_SUBGROUP>;
        for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) { columns[r] = weight_quad(blocks[r], quad); }
        for (var m = 0u; m < M_MAX; m++) {
            let raw = x_quad(min(x_row + m, x_last), x_at);
            let value = raw * x_weight;
            if HAS_SQUARES { (*sums).squares[m] += prologue_square(raw); }
            x_sums[m] += dot(value, vec4<f32>(1.0));
            for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) { products[r * M_MAX + m] += dot(columns[r], value); }
        }
    }
    for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) {
        for (var m = 0u; m < M_MAX; m++) {
            (*sums).products[r * M_MAX + m] += weight_finish(blocks[r], products[r * M_MAX + m], x_sums[m]);
        }
    }
}
