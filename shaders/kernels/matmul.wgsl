// matmul: out[r, OUT_AT + n] = epilogue(sum over k of W[n, k] * x[r, k]), for many rows r.
//
// A workgroup of 256 owns a tile of TILE_M rows of x and TILE_N rows of W (multiples of 64, or 32 and 128), in 16 columns of
// invocations (32 for a TILE_M of 32) of which each has 4 x 4 sums or a multiple. TILE_K columns at a time go through
// workgroup memory, transposed and as f32, the next ones being loaded meanwhile: 4 * TILE_K * (TILE_M + TILE_N) bytes,
// 12 KiB by default, and 4 * TILE_M more with experts. Ragged edges are filled with zeros.
// With a stack of experts the rows of a tile are products of one expert, wherever they lie, and W is its matrix.
// Assumes TILE_K a multiple of 4. Sums are f32.
// Slots: weight, x, rows, tile, epilogue.

import package::lib::grid::linear_id;
import package::slot::rows::n_rows;
import package::slot::tile::{products_of, tile_begin, tile_product, x_row};
import package::slot::x::x_quad;
import package::slot::weight::weight_columns;
import package::slot::epilogue::{COLUMNS_PER_OUT, epilogue_begin, epilogue_store};

const WG = 256u;
const N_TILES = (N + TILE_N - 1u) / TILE_N;
// Pieces of 4 rows x 4 columns in the two tiles.
const X_PIECES = TILE_M / 4u * (TILE_K / 4u);
const W_PIECES = TILE_N / 4u * (TILE_K / 4u);
// Pieces of an invocation at most.
const PIECES_EACH = (X_PIECES + W_PIECES + WG - 1u) / WG;
// Groups of 4 rows of a tile that neighbouring invocations own, and how many of them one does.
const GROUPS_M = min(16u, TILE_M / 4u);
const GROUPS_N = WG / GROUPS_M;
const OWN_M = TILE_M / (4u * GROUPS_M);
const OWN_N = TILE_N / (4u * GROUPS_N);

// [column][row / 4]: four rows' numbers of one column. Groups of rows are permuted by the column's quad, so that the
// stores of neighbouring invocations, which take neighbouring quads, fall into different banks.
var<workgroup> x_tile: array<vec4<f32>, TILE_K * (TILE_M / 4u)>;
var<workgroup> w_tile: array<vec4<f32>, TILE_K * (TILE_N / 4u)>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let tile = id / N_TILES;
    let w_first = id % N_TILES * TILE_N;
    let x_end = products_of(n_rows());
    let matrix = tile_begin(tile, x_end, thread);
    if !matrix.is_here { return; }
    let own_n = thread % 16u + 16u * (thread / (16u * GROUPS_M));
    let own_m = thread / 16u % GROUPS_M;

    // [row of x][4 rows of W]
    var sums: array<vec4<f32>, 4u * OWN_M * OWN_N>;
    var held: array<mat4x4<f32>, PIECES_EACH>;
    for (var i = 0u; i < PIECES_EACH; i++) { held[i] = piece_at(thread + i * WG, 0u, tile, x_end, matrix.first_row, w_first); }
    for (var k = 0u; k < K; k += TILE_K) {
        for (var i = 0u; i < PIECES_EACH; i++) { put(thread + i * WG, held[i]); }
        workgroupBarrier();
        // The next columns come while these are multiplied.
        if k + TILE_K < K {
            for (var i = 0u; i < PIECES_EACH; i++) {
                held[i] = piece_at(thread + i * WG, k + TILE_K, tile, x_end, matrix.first_row, w_first);
            }
        }
        for (var i = 0u; i < TILE_K; i++) {
            let swizzle = i / 4u % 8u;
            var w: array<vec4<f32>, OWN_N>;
            for (var n = 0u; n < OWN_N; n++) { w[n] = w_tile[i * (TILE_N / 4u) + ((n * GROUPS_N + own_n) ^ swizzle)]; }
            for (var m = 0u; m < OWN_M; m++) {
                let x = x_tile[i * (TILE_M / 4u) + ((m * GROUPS_M + own_m) ^ swizzle)];
                for (var n = 0u; n < OWN_N; n++) {
                    sums[(m * 4u) * OWN_N + n] += x.x * w[n];
                    sums[(m * 4u + 1u) * OWN_N + n] += x.y * w[n];
                    sums[(m * 4u + 2u) * OWN_N + n] += x.z * w[n];
                    sums[(m * 4u + 3u) * OWN_N + n] += x.w * w[n];
                }
            }
        }
        workgroupBarrier();
    }

    for (var m = 0u; m < 4u * OWN_M; m++) {
        let row = tile_product(tile, (m / 4u * GROUPS_M + own_m) * 4u + m % 4u);
        if row >= x_end { continue; }
        for (var n = 0u; n < OWN_N; n++) {
            let values = sums[m * OWN_N + n];
            let column = w_first + (n * GROUPS_N + own_n) * 4u;
            for (var i = 0u; i < 4u; i += COLUMNS_PER_OUT) {
                if column + i < N {
                    let out_column = (column + i) / COLUMNS_PER_OUT;
                    let residue = epilogue_begin(row, out_column);
                    epilogue_store(row, out_column, values[i], values[i + COLUMNS_PER_OUT - 1u], residue);
                }
            }
        }
    }
}

// Numbers of a piece from column k on, [row][column]; zeros past the rows and columns that there are.
fn piece_at(piece: u32, k: u32, tile: u32, x_end: u32, w_base: u32, w_first: u32) -> mat4x4<f32> {
    var rows: mat4x4<f32>;
    if piece < X_PIECES {
        let quad = k / 4u + piece % (TILE_K / 4u);
        for (var i = 0u; i < 4u; i++) {
            let row = tile_product(tile, 4u * (piece / (TILE_K / 4u)) + i);
            if row < x_end && 4u * quad < K { rows[i] = x_quad(x_row(row), quad); }
        }
    } else if piece < X_PIECES + W_PIECES {
        let quad = k / 4u + (piece - X_PIECES) % (TILE_K / 4u);
        for (var i = 0u; i < 4u; i++) {
            let row = w_first + 4u * ((piece - X_PIECES) / (TILE_K / 4u)) + i;
            if row < N && 4u * quad < K { rows[i] = weight_columns(w_base + row, quad); }
        }
    }
    return rows;
}

// A piece to its place in workgroup memory.
fn put(piece: u32, rows: mat4x4<f32>) {
    let columns = transpose(rows);
    if piece < X_PIECES {
        let quad = piece % (TILE_K / 4u);
        let group = piece / (TILE_K / 4u);
        for (var i = 0u; i < 4u; i++) { x_tile[(4u * quad + i) * (TILE_M / 4u) + (group ^ (quad % 8u))] = columns[i]; }
    } else if piece < X_PIECES + W_PIECES {
        let quad = (piece - X_PIECES) % (TILE_K / 4u);
        let group = (piece - X_PIECES) / (TILE_K / 4u);
        for (var i = 0u; i < 4u; i++) { w_tile[(4u * quad + i) * (TILE_N / 4u) + (group ^ (quad % 8u))] = columns[i]; }
    }
}
