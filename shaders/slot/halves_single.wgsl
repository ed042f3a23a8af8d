// Tiles in workgroup memory by single numbers: Metal loads its matrices through pointers to numbers alone. Interface:
// slot/halves_quads.

import package::lib::half_rows::Eight;

const HALVES = 1u;

var<workgroup> tiles: array<f16, TILE_NUMBERS>;

fn halves_put(at: u32, eight: Eight) {
    tiles[at] = eight.p0.x;
    tiles[at + 1u] = eight.p0.y;
    tiles[at + 2u] = eight.p1.x;
    tiles[at + 3u] = eight.p1.y;
    tiles[at + 4u] = eight.p2.x;
    tiles[at + 5u] = eight.p2.y;
    tiles[at + 6u] = eight.p3.x;
    tiles[at + 7u] = eight.p3.y;
}
