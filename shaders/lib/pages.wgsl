// Pages of keys and values: [page][K|V][kv head][16 tokens][HEAD_DIM], f16, two a word.

const PAGE_TOKENS = 16u;
// Words of one token's key or value of one head.
const KV_ROW_WORDS = HEAD_DIM / 2u;
// Words from a key to its value.
const KV_VALUE_AT = N_KV_HEADS * PAGE_TOKENS * KV_ROW_WORDS;

// Word where the key of `kv_head` begins for the token kept at `slot` = page * 16 + offset.
fn key_word(slot: u32, kv_head: u32) -> u32 {
    return ((slot / PAGE_TOKENS * 2u * N_KV_HEADS + kv_head) * PAGE_TOKENS + slot % PAGE_TOKENS) * KV_ROW_WORDS;
}
