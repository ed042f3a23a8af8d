// Greatest value and its index over a workgroup of WG invocations (a power of two); the lower index wins ties.
// 8 * WG bytes of workgroup memory.

var<workgroup> best_values: array<f32, WG>;
var<workgroup> best_indexes: array<u32, WG>;

struct Best { value: f32, index: u32 }

// Where nothing is greater, e.g. among values that are no numbers, the first entry is taken.
fn best_none() -> Best { return Best(-3.4e38, 0u); }

fn best_of(a: Best, b: Best) -> Best {
    if b.value > a.value || (b.value == a.value && b.index < a.index) { return b; }
    return a;
}

// The best of the workgroup, for every invocation. Must be called in uniform control flow.
fn workgroup_best(own: Best, thread: u32) -> Best {
    best_values[thread] = own.value;
    best_indexes[thread] = own.index;
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if thread < width {
            let winner = best_of(best_at(thread), best_at(thread + width));
            best_values[thread] = winner.value;
            best_indexes[thread] = winner.index;
        }
    }
    workgroupBarrier();
    return best_at(0u);
}

fn best_at(ix: u32) -> Best { return Best(best_values[ix], best_indexes[ix]); }
