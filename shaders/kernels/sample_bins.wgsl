// sample_bins: how many logits of a row lie in which distance below its greatest, and with which mass; see lib/bins.
//
// One workgroup a (row that may filter, block of logits); a row's blocks add to its bins, which sample_partial emptied.
// Workgroup memory: 12 bytes a bin + 4 * WG. Runs over the rows up to the last that filters.

import package::lib::grid::linear_id;
import package::lib::choice::{FILTERS, choice_flags};
import package::lib::row_top::{N_PARTIAL, row_top};
import package::lib::bins::{BINS, BIN_WORDS, FORBIDDEN, add_to_bin, bin_counts, bin_highs, bin_lows, bin_of, empty_bins};
import package::slot::rows::n_rows;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(2) @binding(0) var<storage, read_write> out: array<atomic<u32>>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = linear_id(workgroup, n_workgroups);
    let row = id / N_PARTIAL;
    let first = id % N_PARTIAL * BLOCK;
    if row >= n_rows() || (choice_flags(row) & FILTERS) == 0u { return; }
    empty_bins(thread);
    let top = row_top(row, thread);
    for (var column = first + thread; column < min(first + BLOCK, N); column += WG) {
        let distance = top - x[row * N + column];
        if distance < FORBIDDEN { add_to_bin(bin_of(distance), distance); }
    }
    workgroupBarrier();
    for (var bin = thread; bin < BINS; bin += WG) {
        let count = atomicLoad(&bin_counts[bin]);
        if count == 0u { continue; }
        let at = row * BIN_WORDS + bin;
        let low = atomicLoad(&bin_lows[bin]);
        atomicAdd(&out[at], count);
        let before = atomicAdd(&out[at + BINS], low);
        atomicAdd(&out[at + 2u * BINS], atomicLoad(&bin_highs[bin]) + select(0u, 1u, before + low < before));
    }
}
