// matvec: out[r, OUT_AT + n] = epilogue(sum over k of W[n, k] * prologue(x[r])[k]), for few rows r.
//
// It reads each weight once for up to M_MAX rows of x, at the memory's speed. A workgroup owns ROWS_PER_WG rows of W
// and M_MAX rows of x. A team of lanes (a subgroup of any size; 32 neighbours in the plain tier) takes one unit after
// another: ROWS_PER_SUBGROUP rows of W and one of K_SPLIT parts of K. Teams stride over the units by their number, so
// every subgroup size is right, and best is one that leaves no team idle. Lanes stride over the unit's blocks with
// UNROLL * ROWS_PER_SUBGROUP loads in flight. x comes straight from global memory, where the caches hold it.
// Sums meet in workgroup memory: 4 * M_MAX * (ROWS_PER_WG * K_SPLIT + units) bytes, plus 4 * WG in the plain tier, plus
// 4 * M_MAX * (ROWS_PER_WG + WG / 4) for the squares of a normed copy, plus 20 KiB with INT8 (lib/x_bytes) and 128 with
// HALF and a table (slot/pairs_table).
// With a stack of experts a row of x makes several rows of the result, each with a matrix of its own, and M_MAX is 1.
// Assumes ROWS_PER_WG a multiple of ROWS_PER_SUBGROUP, and even if the epilogue pairs columns.
// Slots: unit (and with it x and weight or pairs), rows, experts, prologue, epilogue, lanes.

import package::lib::grid::linear_id;
import package::lib::sums::{UNITS, part_products, part_squares};
import package::slot::rows::n_rows;
import package::slot::experts::{products_of, x_row, matrix_of};
import package::slot::unit::{PRODUCTS_SCALE, unit_begin, unit_products};
import package::slot::prologue::{HAS_SQUARES, prologue_begin, prologue_end, prologue_factor};
import package::slot::lanes::{Lanes, team_of, n_teams_of};
import package::slot::epilogue::{COLUMNS_PER_OUT, STORES_SQUARES, epilogue_begin, epilogue_store, epilogue_squares};

const WG_COLUMNS = (N + ROWS_PER_WG - 1u) / ROWS_PER_WG;
const N_OUT = ROWS_PER_WG / COLUMNS_PER_OUT;

// Squares of what the workgroup stored, if the epilogue wants them.
var<workgroup> out_squares: array<f32, STORES_SQUARES * N_OUT * M_MAX + 1u>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    lanes: Lanes,
) {
    unit_begin(thread);
    let id = linear_id(workgroup, n_workgroups);
    let w_first = id % WG_COLUMNS * ROWS_PER_WG;
    let row_first = id / WG_COLUMNS * M_MAX;
    // A workgroup past the rows works for nothing and stores nothing. To return here would keep every workgroup waiting for
    // the number of rows before its first load of W.
    let row_end = products_of(n_rows());
    let x_first = x_row(row_first);
    let x_last = x_row(row_end - 1u);
    let matrix = matrix_of(min(row_first, row_end - 1u));
    let column_first = w_first / COLUMNS_PER_OUT;
    let residue = epilogue_begin(min(row_first + thread / N_OUT, row_end - 1u), min(column_first + thread % N_OUT, OUT_COLS - 1u));

    let early = prologue_begin(x_first, x_last, lanes);
    let units = select(0u, UNITS, matrix.is_here);
    for (var base = 0u; base < units; base += n_teams_of(lanes)) {
        unit_products(base + team_of(lanes), matrix.first_row, w_first, x_first, x_last, lanes);
    }
    prologue_end(early, x_first, x_last, lanes);
    workgroupBarrier();

    for (var i = thread; i < N_OUT * M_MAX; i += WG) {
        let column = i % N_OUT;
        let m = i / N_OUT;
        var stored = 0.0;
        if matrix.is_here && row_first + m < row_end && w_first + column * COLUMNS_PER_OUT < N {
            let first = total(column * COLUMNS_PER_OUT, m);
            let second = total(column * COLUMNS_PER_OUT + COLUMNS_PER_OUT - 1u, m);
            var own = residue;
            if i != thread { own = epilogue_begin(row_first + m, column_first + column); }
            stored = epilogue_store(row_first + m, column_first + column, first, second, own);
        }
        if STORES_SQUARES > 0u { out_squares[i] = stored * stored; }
    }
    if STORES_SQUARES > 0u {
        workgroupBarrier();
        if thread < M_MAX && row_first + thread < row_end {
            var sum = 0.0;
            for (var i = 0u; i < N_OUT; i++) { sum += out_squares[thread * N_OUT + i]; }
            epilogue_squares(row_first + thread, id % WG_COLUMNS, sum);
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
    return sum * PRODUCTS_SCALE * prologue_factor(m, squares);
}
