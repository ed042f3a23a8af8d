// Tiles in workgroup memory by quads of numbers, which are stored at once.
//
// Every provider has these: elements of HALVES numbers in `tiles`, which cooperative matrices are loaded from, and
// halves_put, which stores an eight, p0 first, from number `at` on, a multiple of 8. The catalogue says how many TILE_NUMBERS there are.

import package::lib::half_rows::Eight;

const HALVES = 4u;

var<workgroup> tiles: array<vec4<f16>, TILE_NUMBERS / 4u>;

fn halves_put(at: u32, eight: Eight) {
    tiles[at / 4u] = vec4<f16>(eight.p0, eight.p1);
    tiles[at / 4u + 1u] = vec4<f16>(eight.p2, eight.p3);
}
