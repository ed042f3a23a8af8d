// moe_order: out = the step's products with experts in tiles of one expert each, for matrix products that read an expert's
// matrix once for TILE_M of its products; lib/expert_tiles tells how the table lies. Experts and their products ascend.
//
// One workgroup an expert. Each counts all products by expert, which tells it the tiles before its own. An invocation has
// an equal run of the products, and places those of the expert after those of the runs before: what comes out depends on
// no order in which invocations run. For P products that is 2 P / WG reads of the route, up to WG additions and EXPERTS / WG
// more an invocation, and P atomic additions a workgroup. Workgroup memory: 4 * (EXPERTS + WG + 1) bytes.
// Slots: rows.

import package::lib::grid::linear_id;
import package::lib::expert_tiles::{NOBODY, TILE_WORDS, table_tiles, tiles_of};
import package::slot::rows::n_rows;

// For each row TOP_K ids as numbers, then TOP_K shares.
@group(0) @binding(3) var<storage, read> route: array<f32>;
@group(2) @binding(0) var<storage, read_write> out: array<u32>;

// Products of each expert.
var<workgroup> counts: array<atomic<u32>, EXPERTS>;
// This expert's products in each invocation's run.
var<workgroup> runs: array<u32, WG>;
// Tiles of the experts before this one.
var<workgroup> tiles_before: atomic<u32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) n_workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let expert = linear_id(workgroup, n_workgroups);
    if expert >= EXPERTS { return; }
    let products = n_rows() * TOP_K;
    let run = (products + WG - 1u) / WG;
    let begin = min(thread * run, products);
    let end = min(begin + run, products);

    for (var i = thread; i < EXPERTS; i += WG) { atomicStore(&counts[i], 0u); }
    if thread == 0u { atomicStore(&tiles_before, 0u); }
    workgroupBarrier();
    var own = 0u;
    for (var product = begin; product < end; product++) {
        let chosen = expert_of(product);
        atomicAdd(&counts[chosen], 1u);
        if chosen == expert { own++; }
    }
    runs[thread] = own;
    workgroupBarrier();
    var tiles = 0u;
    for (var i = thread; i < expert; i += WG) { tiles += tiles_of(atomicLoad(&counts[i])); }
    atomicAdd(&tiles_before, tiles);
    var place = 0u;
    for (var i = 0u; i < thread; i++) { place += runs[i]; }
    workgroupBarrier();

    let first_tile = atomicLoad(&tiles_before);
    let n = atomicLoad(&counts[expert]);
    let end_tile = first_tile + tiles_of(n);
    for (var product = begin; product < end; product++) {
        if expert_of(product) == expert {
            out[word_of(first_tile, place)] = product;
            place++;
        }
    }
    for (var i = n + thread; i < tiles_of(n) * TILE_M; i += WG) { out[word_of(first_tile, i)] = NOBODY; }
    for (var tile = first_tile + thread; tile < end_tile; tile += WG) { out[tile * TILE_WORDS] = expert; }
    if expert == EXPERTS - 1u {
        for (var tile = end_tile + thread; tile < table_tiles(products); tile += WG) { out[tile * TILE_WORDS] = NOBODY; }
    }
}

fn expert_of(product: u32) -> u32 {
    let id = route[product / TOP_K * 2u * TOP_K + product % TOP_K];
    return min(u32(clamp(id, 0.0, f32(EXPERTS - 1u))), EXPERTS - 1u);
}

// Where an expert's product at `place` is told, its tiles beginning with `first_tile`.
fn word_of(first_tile: u32, place: u32) -> u32 {
    return (first_tile + place / TILE_M) * TILE_WORDS + 1u + place % TILE_M;
}
