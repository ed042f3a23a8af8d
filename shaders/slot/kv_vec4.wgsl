// KV pages read in 16-byte pieces: HEAD_DIM is a multiple of 8.

@group(3) @binding(0) var<storage, read> kv: array<vec4<u32>>;

fn kv_word(word: u32) -> u32 { return kv[word / 4u][word % 4u]; }

// Numbers 8 * piece .. of the row that begins at `row`, packed.
fn kv_piece(row: u32, piece: u32) -> vec4<u32> { return kv[row / 4u + piece]; }
