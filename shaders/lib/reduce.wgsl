// Reduction over a workgroup of WG invocations (a power of two from 32) through 4 * WG bytes of workgroup memory.

const REDUCE_PARTS = 16u;

var<workgroup> reduce_scratch: array<f32, WG>;

// The sum over the workgroup, for every invocation. Must be called in uniform control flow, once a kernel.
// Two rounds of a few additions: a tree would take a barrier for each halving.
fn workgroup_sum(value: f32, thread: u32) -> f32 {
    reduce_scratch[thread] = value;
    workgroupBarrier();
    if thread < REDUCE_PARTS {
        var sum = 0.0;
        for (var i = 0u; i < WG / REDUCE_PARTS; i++) { sum += reduce_scratch[i * REDUCE_PARTS + thread]; }
        reduce_scratch[thread] = sum;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < REDUCE_PARTS; i++) { sum += reduce_scratch[i]; }
    return sum;
}
