// matmul_coop: out[r, OUT_AT + n] = epilogue(sum over k of W[n, k] * x[r, k]), for many rows r, on matrix units.
//
// A workgroup owns a tile of TILE_M rows of x and TILE_N rows of W, each of its subgroups of LANES invocations UNIT_M x
// UNIT_N of it, as cooperative matrices of SIDE x SIDE. TILE_K columns at a time go through workgroup memory in f16, x times
// HALF_SCALE, the next ones being loaded meanwhile: 2 * (TILE_M + TILE_N) * (TILE_K + 8) bytes, 4 * SIDE * SIDE more a
// subgroup, through which sums go out, and 4 * TILE_M more with experts. With SLICES above 1 each unit has so many subgroups,
// which take a slice of those columns each; their sums meet on the way out. Rows past the last repeat it and are not stored.
// With a stack of experts the rows of a tile are products of one expert, wherever they lie, and W is its matrix.
// Assumes K a multiple of TILE_K, subgroups of exactly LANES, numbered in the order of their invocations. Inputs are
// rounded to f16, sums are f32.
// Slots: eights (of weights), x, rows, tile, halves, epilogue; the unit of a subgroup is generated.

import package::lib::grid::linear_id;
import package::slot::rows::n_rows;
import package::slot::tile::{products_of, tile_begin};
import package::slot::unit::unit_products;

const N_TILES = (N + TILE_N - 1u) / TILE_N;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let tile = id / N_TILES;
    let x_end = products_of(n_rows());
    let matrix = tile_begin(tile, x_end, thread);
    if !matrix.is_here { return; }
    unit_products(tile, x_end, matrix.first_row, id % N_TILES * TILE_N, thread, subgroup, lane);
}
