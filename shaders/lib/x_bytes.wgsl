// Rows of x rounded to 8 bits for products in whole numbers: blocks of 32 columns, each with a scale, its largest number 127
// of them. A workgroup makes them for itself, X_BLOCKS blocks of M_MAX rows at a time, in workgroup memory:
// 40 * X_BLOCKS * M_MAX bytes.

import package::slot::bytes::{bytes_at, bytes_order};
import package::slot::lanes::{Lanes, lane_of, n_lanes_of, team_of};
import package::slot::x::x_eight;

const N_BLOCKS = K / 32u;
const X_BLOCKS = min(512u / M_MAX, N_BLOCKS);
const N_EIGHTS = 4u * X_BLOCKS * M_MAX;

// [row][place][block]: the eight at a block's place as words of four bytes, in the order of the weight's.
var<workgroup> x_words: array<vec2<u32>, N_EIGHTS>;
// [row][block]: scale, and the sum of the block's bytes times it.
var<workgroup> x_scales: array<vec2<f32>, X_BLOCKS * M_MAX>;

// Rounds the blocks from `first` of the rows from `x_first` (row `x_last` stands in for missing ones). Four neighbouring lanes
// make one block. Must be called in uniform control flow, between barriers.
fn x_bytes_make(first: u32, x_first: u32, x_last: u32, lanes: Lanes) {
    let lane = team_of(lanes) * n_lanes_of(lanes) + lane_of(lanes);
    for (var base = 0u; base < N_EIGHTS; base += WG) {
        let at = base + lane;
        let place = at % 4u;
        let block = at / 4u % X_BLOCKS;
        let row = at / (4u * X_BLOCKS);
        let x = x_eight(min(x_first + row, x_last), bytes_at(min(first + block, N_BLOCKS - 1u), place)).columns;
        let largest = max(max(abs(x.p0), abs(x.p1)), max(abs(x.p2), abs(x.p3)));
        var most = f32(max(largest.x, largest.y));
        most = max(most, subgroupShuffleXor(most, 1u));
        most = max(most, subgroupShuffleXor(most, 2u));
        let steps = select(0.0, 127.0 / most, most > 0.0);
        let p0 = vec2<i32>(round(vec2<f32>(x.p0) * steps));
        let p1 = vec2<i32>(round(vec2<f32>(x.p1) * steps));
        let p2 = vec2<i32>(round(vec2<f32>(x.p2) * steps));
        let p3 = vec2<i32>(round(vec2<f32>(x.p3) * steps));
        let pairs = (p0 + p1) + (p2 + p3);
        var sum = pairs.x + pairs.y;
        sum += subgroupShuffleXor(sum, 1u);
        sum += subgroupShuffleXor(sum, 2u);
        if at < N_EIGHTS {
            x_words[(row * 4u + place) * X_BLOCKS + block] = bytes_order(p0, p1, p2, p3);
            let scale = most / 127.0;
            if place == 0u { x_scales[row * X_BLOCKS + block] = vec2<f32>(scale, scale * f32(sum)); }
        }
    }
}
