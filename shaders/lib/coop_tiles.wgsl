// How tiles lie in workgroup memory in a product on matrix units, and how its sums leave it.

import package::lib::half_rows::HALF_SCALE;
import package::slot::epilogue::{COLUMNS_PER_OUT, epilogue_begin, epilogue_store};
import package::slot::tile::tile_product;

// Numbers from a row of a tile to the next. The 8 that are no columns put the rows that matrix units read together into
// different banks.
const STRIDE = TILE_K + 8u;
// Eights of columns that a row of a tile has.
const TILE_EIGHTS = TILE_K / 8u;
// Subgroups of a slice of the tile's columns.
const UNITS = WG / LANES / SLICES;
// Numbers of a cooperative matrix.
const AREA = SIDE * SIDE;

// Sums on their way out, a matrix for each subgroup.
var<workgroup> stage: array<f32, WG / LANES * AREA>;

// A subgroup's matrix begins as zeros.
fn stage_clear(subgroup: u32, lane: u32) {
    for (var i = lane; i < AREA; i += LANES) { stage[subgroup * AREA + i] = 0.0; }
}

// The results of a unit's matrix, which begins at row m_first of the tile and row n_first of W.
fn stage_store(tile: u32, x_end: u32, m_first: u32, n_first: u32, subgroup: u32, lane: u32) {
    const OUTS = SIDE / COLUMNS_PER_OUT;
    for (var i = subgroup / UNITS * LANES + lane; i < SIDE * OUTS; i += SLICES * LANES) {
        let m = i / OUTS;
        let n = i % OUTS * COLUMNS_PER_OUT;
        let row = tile_product(tile, m_first + m);
        if row < x_end && n_first + n < N {
            let at = subgroup % UNITS * AREA + m * SIDE + n;
            var first = 0.0;
            var second = 0.0;
            for (var slice = 0u; slice < SLICES; slice++) {
                first += stage[slice * UNITS * AREA + at];
                second += stage[slice * UNITS * AREA + at + COLUMNS_PER_OUT - 1u];
            }
            let column = (n_first + n) / COLUMNS_PER_OUT;
            let residue = epilogue_begin(row, column);
            epilogue_store(row, column, first / HALF_SCALE, second / HALF_SCALE, residue);
        }
    }
}
