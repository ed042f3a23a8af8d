// moe_route: out[r, :] = the TOP_K experts with the greatest logits x[r, :], the lower of equal ones first, then their shares
// exp(logit) / sum of exp(logit), over all experts, or with RENORMALIZE over those that were taken.
//
// One workgroup a row. An expert's place is the number of experts before it, which its invocation counts: EXPERTS
// comparisons, and no order of rounds. Ids are numbers, not bits. Workgroup memory: 4 * (EXPERTS + TOP_K) bytes.
// Slots: rows.

import package::lib::grid::linear_id;
import package::slot::rows::n_rows;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(2) @binding(0) var<storage, read_write> out: array<f32>;

var<workgroup> logits: array<f32, EXPERTS>;
var<workgroup> taken: array<u32, TOP_K>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = linear_id(workgroup, n_workgroups);
    if row >= n_rows() { return; }
    for (var i = thread; i < EXPERTS; i += WG) { logits[i] = x[row * EXPERTS + i]; }
    for (var i = thread; i < TOP_K; i += WG) { taken[i] = 0u; }
    workgroupBarrier();
    for (var i = thread; i < EXPERTS; i += WG) {
        let own = logits[i];
        var place = 0u;
        for (var j = 0u; j < EXPERTS; j++) {
            if logits[j] > own || (logits[j] == own && j < i) { place++; }
        }
        if place < TOP_K { taken[place] = i; }
    }
    workgroupBarrier();
    // Few numbers, which each invocation that has a share to write adds up by itself.
    let top = logits[taken[0]];
    for (var i = thread; i < TOP_K; i += WG) {
        var sum = 0.0;
        if RENORMALIZE == 1u {
            for (var j = 0u; j < TOP_K; j++) { sum += exp(logits[taken[j]] - top); }
        } else {
            for (var j = 0u; j < EXPERTS; j++) { sum += exp(logits[j] - top); }
        }
        out[row * 2u * TOP_K + i] = f32(taken[i]);
        out[row * 2u * TOP_K + TOP_K + i] = exp(logits[taken[i]] - top) / sum;
    }
}
