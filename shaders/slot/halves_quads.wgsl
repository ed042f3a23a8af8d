// Tiles in workgroup memory by quads of numbers, which are stored at once.
//
// Every provider has these: elements of HALVES numbers in `tiles`, which cooperative matrices are loaded from, and
// halves_put, which stores 8 neighbouring numbers of which the first is number `at`, a multiple of 8.

import package::lib::coop_tiles::{BUFFER, Halves};

const HALVES = 4u;

var<workgroup> tiles: array<vec4<f16>, BUFFERS * BUFFER / 4u>;

fn halves_put(at: u32, eight: Halves) {
    tiles[at / 4u] = eight.low;
    tiles[at / 4u + 1u] = eight.high;
}
