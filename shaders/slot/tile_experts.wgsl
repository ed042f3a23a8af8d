// Tiles of products of one expert of a stack, as moe_order sorted them. Here are EXPERT_COUNT matrices of N rows, those of
// experts from EXPERT_FIRST on. A tile's products are in workgroup memory: 4 * TILE_M bytes. Interface: slot/tile_rows.

import package::lib::expert_tiles::{TILE_WORDS, table_tiles};

@group(0) @binding(3) var<storage, read> order: array<u32>;

struct Tile { first_row: u32, is_here: bool }

var<workgroup> tile_products: array<u32, TILE_M>;

fn products_of(rows: u32) -> u32 { return rows * TOP_K; }
fn x_row(product: u32) -> u32 { return select(product / TOP_K, product, X_EACH == 1u); }
fn tile_begin(tile: u32, products: u32, thread: u32) -> Tile {
    let is_tile = tile < table_tiles(products);
    let at = select(0u, tile * TILE_WORDS, is_tile);
    let expert = order[at];
    for (var m = thread; m < TILE_M; m += WG) { tile_products[m] = order[at + 1u + m]; }
    workgroupBarrier();
    let is_here = is_tile && expert >= EXPERT_FIRST && expert < EXPERT_FIRST + EXPERT_COUNT;
    return Tile(select(0u, min(expert - EXPERT_FIRST, EXPERT_COUNT - 1u) * N, is_here), is_here);
}
fn tile_product(tile: u32, m: u32) -> u32 { return tile_products[m]; }
