// sample_bins: how many logits of a row lie in which distance below its greatest, and with which mass; see lib/bins.
//
// One workgroup a (row that may filter, block of logits); a row's blocks add to its bins, which sample_partial emptied.
// Workgroup memory: 12 bytes a bin + 4 * WG. Runs over the rows up to the last that filters.

import package::lib::grid::linear_id;
import package::lib::choice::{FILTERS, choice_flags};
import package::lib::bins::{BINS, FORBIDDEN, add_to_bin, bin_counts, bin_highs, bin_lows, bin_of, empty_bins};
import package::slot::rows::n_rows;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> parts: array<vec4<u32>>;
@group(2) @binding(0) var<storage, read_write> out: array<atomic<u32>>;

const N_PARTIAL = (N + BLOCK - 1u) / BLOCK;

var<workgroup> tops: array<f32, WG>;

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
    let top = top_of(row, thread);
    for (var column = first + thread; column < min(first + BLOCK, N); column += WG) {
        let distance = top - x[row * N + column];
        if distance < FORBIDDEN { add_to_bin(bin_of(distance), distance); }
    }
    workgroupBarrier();
    for (var bin = thread; bin < BINS; bin += WG) {
        let count = atomicLoad(&bin_counts[bin]);
        if count == 0u { continue; }
        let at = row * 3u * BINS + bin;
        let low = atomicLoad(&bin_lows[bin]);
        atomicAdd(&out[at], count);
        let before = atomicAdd(&out[at + BINS], low);
        atomicAdd(&out[at + 2u * BINS], atomicLoad(&bin_highs[bin]) + select(0u, 1u, before + low < before));
    }
}

// The row's greatest logit.
fn top_of(row: u32, thread: u32) -> f32 {
    var top = -2e38;
    for (var block = thread; block < N_PARTIAL; block += WG) {
        top = max(top, bitcast<f32>(parts[row * N_PARTIAL + block].x));
    }
    tops[thread] = top;
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if thread < width { tops[thread] = max(tops[thread], tops[thread + width]); }
    }
    workgroupBarrier();
    return tops[0];
}
