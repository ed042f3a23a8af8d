// A row's greatest logit, from sample_partial's parts. 4 * WG bytes of workgroup memory.

@group(0) @binding(2) var<storage, read> parts: array<vec4<u32>>;

const N_PARTIAL = (N + BLOCK - 1u) / BLOCK;

var<workgroup> tops: array<f32, WG>;

// For every invocation. Must be called in uniform control flow.
fn row_top(row: u32, thread: u32) -> f32 {
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
