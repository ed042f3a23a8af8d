// Products in single precision.
//
// Every provider of products has these. A block is PRODUCTS_BLOCK neighbouring columns of a row of W, which products_load
// reads; products_add adds the products of blocks of ROWS_PER_SUBGROUP rows and M_MAX rows of x to a lane's sums. A product
// is PRODUCTS_SCALE times its sum.

import package::lib::sums::Sums;
import package::slot::x::x_quad;
import package::slot::prologue::{HAS_SQUARES, prologue_weight, prologue_square};
import package::slot::weight::{BLOCK, Block, weight_load, weight_place, weight_quad, weight_finish};

const PRODUCTS_SCALE = 1.0;

const PRODUCTS_BLOCK = BLOCK;
alias Loaded = Block;

fn products_load(row: u32, block: u32) -> Block { return weight_load(row, block); }

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
