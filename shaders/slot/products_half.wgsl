// Products in half precision: x and codes meet as pairs of f16, at most 8 products are added in f16, everything else in
// f32. x is taken times X_SCALE, so that numbers up to 2^20 stay finite, and sums of eight products of numbers up to 2^14.
// Interface: slot/products_single.

import package::lib::sums::Sums;
import package::slot::x::x_quad;
import package::slot::prologue::{HAS_SQUARES, prologue_weight, prologue_square};
import package::slot::pairs::{BLOCK, Block, Eight, pairs_load, pairs_place, pairs_eight, pairs_finish};

const X_SCALE = 0.0625;
const PRODUCTS_SCALE = 1.0 / X_SCALE;

const PRODUCTS_BLOCK = BLOCK;
alias Loaded = Block;

fn products_load(row: u32, block: u32) -> Block { return pairs_load(row, block); }

// Adds a block of ROWS_PER_SUBGROUP rows of W times the rows of x from `x_row` (the last one stands in for missing ones).
fn products_add(w: array<Block, ROWS_PER_SUBGROUP>, block: u32, x_row: u32, x_last: u32, sums: ptr<function, Sums>) {
    var blocks = w;
    var products: array<f32, ROWS_PER_SUBGROUP * M_MAX>;
    var x_sums: array<f32, M_MAX>;
    // Two eights: 8 products in each half of a chain.
    for (var first = 0u; first < BLOCK / 8u; first += 2u) {
        var chains: array<vec2<f16>, ROWS_PER_SUBGROUP * M_MAX>;
        for (var i = first; i < first + 2u; i++) {
            let a_at = block * (BLOCK / 4u) + pairs_place(block, 2u * i);
            let b_at = block * (BLOCK / 4u) + pairs_place(block, 2u * i + 1u);
            let a_weight = prologue_weight(a_at) * X_SCALE;
            let b_weight = prologue_weight(b_at) * X_SCALE;
            var columns: array<Eight, ROWS_PER_SUBGROUP>;
            for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) { columns[r] = pairs_eight(blocks[r], i); }
            for (var m = 0u; m < M_MAX; m++) {
                let a_raw = x_quad(min(x_row + m, x_last), a_at);
                let b_raw = x_quad(min(x_row + m, x_last), b_at);
                if HAS_SQUARES { (*sums).squares[m] += prologue_square(a_raw) + prologue_square(b_raw); }
                let a = a_raw * a_weight;
                let b = b_raw * b_weight;
                x_sums[m] += dot(a + b, vec4<f32>(1.0));
                let x0 = vec2<f16>(vec2<f32>(a.x, b.x));
                let x1 = vec2<f16>(vec2<f32>(a.y, b.y));
                let x2 = vec2<f16>(vec2<f32>(a.z, b.z));
                let x3 = vec2<f16>(vec2<f32>(a.w, b.w));
                for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) {
                    var chain = chains[r * M_MAX + m];
                    chain = fma(columns[r].pairs[0], x0, chain);
                    chain = fma(columns[r].pairs[1], x1, chain);
                    chain = fma(columns[r].pairs[2], x2, chain);
                    chains[r * M_MAX + m] = fma(columns[r].pairs[3], x3, chain);
                }
            }
        }
        for (var i = 0u; i < ROWS_PER_SUBGROUP * M_MAX; i++) {
            let pair = vec2<f32>(chains[i]);
            products[i] += pair.x + pair.y;
        }
    }
    for (var r = 0u; r < ROWS_PER_SUBGROUP; r++) {
        for (var m = 0u; m < M_MAX; m++) {
            (*sums).products[r * M_MAX + m] += pairs_finish(blocks[r], products[r * M_MAX + m], x_sums[m]);
        }
    }
}
