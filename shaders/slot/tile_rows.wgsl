// Tiles of TILE_M neighbouring rows, all for the one matrix.
//
// Every provider has these. A product is a row of the result: products_of tells how many the step's rows make, x_row the
// row of x of one. tile_begin, which the whole workgroup calls first, tells where a tile's matrix begins and whether there
// is something to do; after it tile_product tells the tile's m-th product, none if it is not one of products_of.

struct Tile { first_row: u32, is_here: bool }

fn products_of(rows: u32) -> u32 { return rows; }
fn x_row(product: u32) -> u32 { return product; }
fn tile_begin(tile: u32, products: u32, thread: u32) -> Tile { return Tile(0u, tile * TILE_M < products); }
fn tile_product(tile: u32, m: u32) -> u32 { return tile * TILE_M + m; }
