// Reduction over a workgroup of WG invocations (a power of two) through 4 * WG bytes of workgroup memory.

var<workgroup> reduce_scratch: array<f32, WG>;

// The sum over the workgroup, for every invocation. Must be called in uniform control flow.
fn workgroup_sum(value: f32, thread: u32) -> f32 {
    reduce_scratch[thread] = value;
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if thread < width { reduce_scratch[thread] += reduce_scratch[thread + width]; }
    }
    workgroupBarrier();
    return reduce_scratch[0];
}
