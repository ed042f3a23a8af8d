// sample_gather: out[r, 0 .. n] = the ids of the bin in which top-p, or else top-k, finds its place in row r, in any order: the
// bin up to which tokens have a share TOP_P of all mass, or are the TOP_K nearest. So sample_filter's one workgroup looks at
// thousands of logits, and not at all of them.
//
// Nothing is gathered of a bin of one token, of more than the row of `out` holds, or where XTC counts what top-k takes. One
// workgroup of 256 a (row that may filter, block of logits). Workgroup memory: 3,168 bytes + 4 * BLOCK. Runs over the rows up to
// the last that filters.

import package::lib::grid::linear_id;
import package::lib::choice::{FILTERS, TOP_K, TOP_P, XTC_THRESHOLD, choice_flags, choice_inverse_temperature, choice_number};
import package::lib::step::step_choice;
import package::lib::bins::{BINS, BIN_WORDS, bin_end, bin_start, mass_of};
import package::lib::gathered::{GATHERED, GATHERED_BIN, GATHERED_COUNT};
import package::lib::reach::{add_up, reach, sums};
import package::lib::row_top::{N_PARTIAL, row_top};
import package::slot::rows::n_rows;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(2) @binding(0) var<storage, read_write> out: array<u32>;
@group(2) @binding(1) var<storage, read_write> bins: array<atomic<u32>>;

var<workgroup> ids: array<u32, BLOCK>;
var<workgroup> n_ids: atomic<u32>;
var<workgroup> base: u32;

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
    let share = choice_number(row, TOP_P);
    let top_k = step_choice(row, TOP_K);
    let by_mass = share > 0.0;
    let by_count = top_k > 0u && choice_number(row, XTC_THRESHOLD) < 0.0;
    if choice_inverse_temperature(row) <= 0.0 || !(by_mass || by_count) { return; }

    let at = row * BIN_WORDS;
    let count = atomicLoad(&bins[at + thread]);
    let mass = mass_of(atomicLoad(&bins[at + BINS + thread]), atomicLoad(&bins[at + 2u * BINS + thread]));
    let amount = select(f32(count), mass, by_mass);
    add_up(thread, amount);
    let bin = reach(thread, amount, count, select(f32(min(top_k, N)), share * sums[BINS - 1u], by_mass));
    if bin.y <= 1u || bin.y > GATHERED { return; }

    if thread == 0u { atomicStore(&n_ids, 0u); }
    let top = row_top(row, thread);
    let start = bin_start(bin.x);
    let end = bin_end(bin.x);
    for (var column = first + thread; column < min(first + BLOCK, N); column += WG) {
        let gap = bitcast<u32>(max(top - x[row * N + column], 0.0));
        if gap >= start && gap < end { ids[atomicAdd(&n_ids, 1u)] = column; }
    }
    workgroupBarrier();
    let n = atomicLoad(&n_ids);
    if thread == 0u {
        base = atomicAdd(&bins[at + GATHERED_COUNT], n);
        if first == 0u { atomicStore(&bins[at + GATHERED_BIN], bin.x + 1u); }
    }
    workgroupBarrier();
    for (var ix = thread; ix < n; ix += WG) {
        let place = base + ix;
        if place < GATHERED { out[row * GATHERED + place] = ids[ix]; }
    }
}
