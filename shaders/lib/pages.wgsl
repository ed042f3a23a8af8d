// Pages of keys and values: [page][K|V][kv head][16 tokens][HEAD_DIM]. A row is one token's key or value of one head;
// numbers of KV_BITS bits follow one another in its words. Rows of 4 or 8 bits are codes: the 16 rows of a head's page
// come first, then 16 rows of scales, one word a group of KV_QUANT_GROUP numbers: scale and bias, f16 each.

const PAGE_TOKENS = 16u;
// Words of a row's numbers, and of its scales.
const KV_ROW_WORDS = HEAD_DIM * KV_BITS / 32u;
const KV_SCALE_WORDS = select(0u, HEAD_DIM / KV_QUANT_GROUP, KV_BITS < 16u);
// Words of the rows of one head's page.
const KV_HEAD_WORDS = PAGE_TOKENS * (KV_ROW_WORDS + KV_SCALE_WORDS);
// Rows from a key to its value.
const KV_VALUE_ROWS = N_KV_HEADS * PAGE_TOKENS;

// Row of the key of `kv_head` for the token kept at `slot` = page * 16 + offset.
fn key_row(slot: u32, kv_head: u32) -> u32 {
    return (slot / PAGE_TOKENS * 2u * N_KV_HEADS + kv_head) * PAGE_TOKENS + slot % PAGE_TOKENS;
}

// First word of a row's numbers.
fn row_word(row: u32) -> u32 {
    return row / PAGE_TOKENS * KV_HEAD_WORDS + row % PAGE_TOKENS * KV_ROW_WORDS;
}

// The word of the scale and bias of a row's numbers from `d` on.
fn kv_scale_word(row: u32, d: u32) -> u32 {
    let scales = row / PAGE_TOKENS * KV_HEAD_WORDS + PAGE_TOKENS * KV_ROW_WORDS;
    return scales + row % PAGE_TOKENS * KV_SCALE_WORDS + d / KV_QUANT_GROUP;
}
