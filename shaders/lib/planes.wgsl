// Where codes of W_BITS lie, eight columns at a time.
//
// The low W_LOW bits (1, 2, 4 or 8) of all codes come first; of codes of 3, 5 and 6 bits the rest follows from word
// W_HIGH_AT. So every part of a word is used, and 4 columns and the 4 after them lie in the two halves of a word, the pairs
// of lib/half_rows (of places in a table in the two halves of a byte: slot/pairs_table). Rows are blocks of EIGHTS eights:
// 32 columns, of 8 bits 16, which are 1, 2 or 4 words of low bits.
// Of a block, place i holds eight i ^ turn(block): half rows of x are then read by neighbouring lanes from different
// groups of memory banks. In plain order they would meet in two, and x would take longer than the weights.

import package::lib::weight::{weight, weight_word};

const W_HIGH = W_BITS - W_LOW;
const EIGHTS = select(4u, 2u, W_LOW == 8u);
const ROW_BLOCKS = W_COLS / (8u * EIGHTS);

// The eight of a row that lies at place i of a block.
fn eight_at(block: u32, i: u32) -> u32 { return EIGHTS * block + turned(block, i); }

// The place of a block's eight, and the eight of a place.
fn turned(block: u32, eight: u32) -> u32 {
    return eight ^ select(block / 2u % 4u, block / 4u % 2u, EIGHTS == 2u);
}

// The low bits of a block: one word, two or four.
fn low_words(row: u32, block: u32) -> vec4<u32> {
    let at = row * ROW_BLOCKS + block;
    if W_LOW == 1u { return vec4<u32>(weight_word(at), 0u, 0u, 0u); }
    if W_LOW == 2u {
        let two_blocks = weight[at / 2u];
        return vec4<u32>(select(two_blocks.xy, two_blocks.zw, at % 2u == 1u), 0u, 0u);
    }
    return weight[at];
}

// The high bits of a block: none, one word or two.
fn high_words(row: u32, block: u32) -> vec2<u32> {
    let at = row * ROW_BLOCKS + block;
    if W_HIGH == 0u { return vec2<u32>(); }
    if W_HIGH == 1u { return vec2<u32>(weight_word(W_HIGH_AT + at), 0u); }
    let two_blocks = weight[W_HIGH_AT / 4u + at / 2u];
    return select(two_blocks.xy, two_blocks.zw, at % 2u == 1u);
}
