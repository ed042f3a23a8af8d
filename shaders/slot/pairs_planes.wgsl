// Half-precision pairs of codes in planes (lib/planes) with a scale and bias for W_GROUP columns.
//
// Every provider of pairs has these. Invocations call pairs_begin first, in uniform control flow. A block is BLOCK columns
// of a row, a multiple of 16; pairs_load reads one.
// pairs_eight gives the 8 columns at its place i before scaling, in the order of lib/half_rows; they are the row's eight
// pairs_at(block, i). pairs_finish makes the block's share of the product (of groups of 16, the share of the two eights from
// place 2 * part) from the sum of column * x and the sum of x.
// A code at bits `at` and above, under the exponent of 2^10, is the number 1024 + 2^at * code; one multiply-add centres codes
// and scales them to -8 .. 8, which halves the sums that half precision has to hold and bounds them for all widths;
// pairs_finish moves scale and bias accordingly.
// `Opaque` holds the exponent twice, and a word that is 0, as numbers that no compiler knows. A known exponent makes two
// instructions of masking and setting; one in a register makes one. Scales take part in the first word by bits that are
// always 0, since drivers that see no use for them before pairs_finish load them there, and wait for memory once more.

import package::lib::half_rows::{Eight, as_half};
import package::lib::planes::{EIGHTS, W_HIGH, eight_at, high_words, low_words, turned};
import package::lib::step::step_zero;
import package::slot::scale::{Scale, scale_and_bias, scale_load, scale_word};

const BLOCK = 8u * EIGHTS;
// Groups of a block.
const GROUPS = max(BLOCK / W_GROUP, 1u);

struct Block { low: vec4<u32>, high: vec2<u32>, scales: array<Scale, GROUPS> }

struct Opaque { exponent: u32, zero: u32 }

fn pairs_begin(thread: u32) {}
fn opaque() -> Opaque { return Opaque(0x64006400u + step_zero(), step_zero()); }
fn pairs_load(row: u32, block: u32) -> Block {
    var loaded: Block;
    loaded.low = low_words(row, block);
    loaded.high = high_words(row, block);
    let group = row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP;
    loaded.scales[0] = scale_load(group + select(0u, turned(block, 0u) / 2u, GROUPS > 1u));
    if GROUPS > 1u { loaded.scales[GROUPS - 1u] = scale_load(group + turned(block, 2u) / 2u); }
    return loaded;
}
fn pairs_at(block: u32, i: u32) -> u32 { return eight_at(block, i); }
fn pairs_eight(block: Block, i: u32, opaque: Opaque) -> Eight {
    var tie = 0u;
    if i % 2u == 0u && i / 2u < GROUPS { tie = scale_word(block.scales[i / 2u]) & opaque.zero; }
    return Eight(pair(block, i, 0u, tie, opaque), pair(block, i, 1u, 0u, opaque), pair(block, i, 2u, 0u, opaque), pair(block, i, 3u, 0u, opaque));
}
fn pairs_finish(block: Block, part: u32, product: f32, x_sum: f32) -> f32 {
    let scale = scale_and_bias(block.scales[part % GROUPS]);
    return product * (scale.x * (f32(1u << W_BITS) / 16.0)) + x_sum * (scale.y + f32(1u << W_BITS) / 2.0 * scale.x);
}

// Columns j and j + 4 of the eight at place i; `tie` is 0.
fn pair(block: Block, i: u32, j: u32, tie: u32, opaque: Opaque) -> vec2<f16> {
    // The word that holds the low bits, and where in its halves they begin.
    var low = block.low.x;
    var first_bit = 4u * i + j;
    var at = 0u;
    if W_LOW == 8u {
        low = block.low[2u * i + j / 2u];
        first_bit = 8u * (j % 2u);
    }
    if W_LOW == 4u {
        low = block.low[i];
        first_bit = 4u * j;
        at = 4u * (j % 2u);
    }
    if W_LOW == 2u {
        low = block.low[i / 2u];
        first_bit = 8u * (i % 2u) + 2u * j;
        at = 2u * j;
    }
    var bits = moved(low | tie, first_bit, at) & ((((1u << W_LOW) - 1u) << at) * 0x10001u);
    if W_HIGH == 1u { bits |= moved(block.high.x, 4u * i + j, at + W_LOW) & ((1u << (at + W_LOW)) * 0x10001u); }
    if W_HIGH == 2u {
        bits |= moved(block.high[i / 2u], 8u * (i % 2u) + 2u * j, at + W_LOW) & ((3u << (at + W_LOW)) * 0x10001u);
    }
    let unit = 16.0 / f32(1u << (W_BITS + at));
    return as_half(bits | opaque.exponent) * vec2<f16>(f16(unit)) - vec2<f16>(f16(1024.0 * unit + 8.0));
}
fn moved(word: u32, at: u32, to: u32) -> u32 {
    if at >= to { return word >> (at - to); }
    return word << (to - at);
}
