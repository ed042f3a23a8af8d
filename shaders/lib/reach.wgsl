// Where the sum of amounts, one an invocation, reaches a goal. Workgroups of 256: 2,136 bytes of workgroup memory. All in uniform
// control flow.

var<workgroup> amounts: array<f32, WG>;
var<workgroup> group_sums: array<f32, WG / 16u>;
var<workgroup> sums: array<f32, WG>;
var<workgroup> first_found: atomic<u32>;
var<workgroup> last_filled: atomic<u32>;
var<workgroup> found: vec4<u32>;

// Sums of amounts up to each invocation's, into `sums`: of groups of 16, then each its own.
fn add_up(thread: u32, amount: f32) {
    workgroupBarrier();
    amounts[thread] = amount;
    workgroupBarrier();
    let group = thread / 16u;
    if thread % 16u == 0u {
        var sum = 0.0;
        for (var ix = 0u; ix < 16u; ix++) { sum += amounts[thread + ix]; }
        group_sums[group] = sum;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var ix = 0u; ix < group; ix++) { sum += group_sums[ix]; }
    for (var ix = 16u * group; ix <= thread; ix++) { sum += amounts[ix]; }
    sums[thread] = sum;
    workgroupBarrier();
}

// The first invocation whose sum reaches a goal, else the last that counts something; its count; and the sum before it.
fn reach(thread: u32, amount: f32, count: u32, goal: f32) -> vec4<u32> {
    if thread == 0u {
        atomicStore(&first_found, WG);
        atomicStore(&last_filled, 0u);
    }
    workgroupBarrier();
    if count > 0u {
        atomicMax(&last_filled, thread);
        if sums[thread] >= goal { atomicMin(&first_found, thread); }
    }
    workgroupBarrier();
    var at = atomicLoad(&first_found);
    if at == WG { at = atomicLoad(&last_filled); }
    if thread == at { found = vec4<u32>(thread, count, bitcast<u32>(sums[thread] - amount), 0u); }
    return workgroupUniformLoad(&found);
}
