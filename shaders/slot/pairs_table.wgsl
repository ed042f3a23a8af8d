// Half-precision pairs of codes that are places in the table of iq4_nl and iq4_xs; layout as in slot/weight_planes, but for the
// order in a word: code j is in the low bits of byte j, code j + 4 in its high bits. Interface: slot/pairs_planes.
//
// So a byte is a pair, and pairs_begin puts the pair of each byte into workgroup memory (1 KiB * COPIES), over 16: one load a pair
// instead of some twenty instructions. Lanes want different bytes; with a copy for every second lane at most two meet in a
// memory bank.

import package::lib::half_rows::{Eight, as_half};
import package::lib::planes::{eight_at, low_words};
import package::lib::step::step_zero;
import package::slot::codes::code_numbers;
import package::slot::scale::{Scale, scale_load, scale_value, scale_word};

const BLOCK = 32u;
const COPIES = 16u;

struct Block { words: vec4<u32>, scale: Scale }

struct Opaque { copy: u32, zero: u32 }

var<workgroup> pair_of_byte: array<u32, 256u * COPIES>;
var<private> own_copy: u32;

fn pairs_begin(thread: u32) {
    own_copy = thread % COPIES;
    for (var byte = thread; byte < 256u; byte += WG) {
        let numbers = code_numbers(vec4<u32>(byte & 15u, byte >> 4u, 0u, 0u)) * 0.0625;
        let pair = pack2x16float(numbers.xy);
        // Neighbours begin with different copies, so that their stores fall into different banks.
        for (var i = 0u; i < COPIES; i++) { pair_of_byte[byte * COPIES + (i + thread / (32u / COPIES)) % COPIES] = pair; }
    }
    workgroupBarrier();
}
fn opaque() -> Opaque { return Opaque(own_copy, step_zero()); }
fn pairs_load(row: u32, block: u32) -> Block {
    return Block(low_words(row, block), scale_load(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn pairs_at(block: u32, i: u32) -> u32 { return eight_at(block, i); }
fn pairs_eight(block: Block, i: u32, opaque: Opaque) -> Eight {
    var word = block.words[i];
    if i == 0u { word |= scale_word(block.scale) & opaque.zero; }
    return Eight(pair(word & 255u, opaque), pair((word >> 8u) & 255u, opaque), pair((word >> 16u) & 255u, opaque), pair(word >> 24u, opaque));
}
fn pairs_finish(block: Block, part: u32, product: f32, x_sum: f32) -> f32 {
    return product * (16.0 * scale_value(block.scale));
}

fn pair(byte: u32, opaque: Opaque) -> vec2<f16> { return as_half(pair_of_byte[byte * COPIES + opaque.copy]); }
