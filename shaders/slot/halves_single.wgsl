// Tiles in workgroup memory by single numbers: Metal loads its matrices through pointers to numbers alone. Interface:
// slot/halves_quads.

import package::lib::coop_tiles::{BUFFER, Halves};

const HALVES = 1u;

var<workgroup> tiles: array<f16, BUFFERS * BUFFER>;

fn halves_put(at: u32, eight: Halves) {
    for (var i = 0u; i < 4u; i++) {
        tiles[at + i] = eight.low[i];
        tiles[at + 4u + i] = eight.high[i];
    }
}
