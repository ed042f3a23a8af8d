// The table in which moe_order leaves a step's products with experts: tiles of TILE_WORDS words, the number of an expert and
// those of up to TILE_M of its products. A product is a choice of a row, number row * TOP_K + choice. NOBODY stands for what
// an expert's last tile lacks, and for the expert of a tile that none took.

const NOBODY = 0xffffffffu;
const TILE_WORDS = TILE_M + 1u;

// Tiles that so many products of one expert take.
fn tiles_of(products: u32) -> u32 { return (products + TILE_M - 1u) / TILE_M; }

// Tiles of the table: the most that so many products of all experts can take.
fn table_tiles(products: u32) -> u32 { return tiles_of(products) + EXPERTS; }
