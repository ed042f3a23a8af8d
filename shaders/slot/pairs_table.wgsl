// Half-precision pairs of codes that are places in the table of iq4_nl and iq4_xs; layout as in slot/weight_planes, but for the
// order in a word: code j is in the low bits of byte j, code j + 4 in its high bits. Interface: slot/pairs_planes.
//
// pairs_begin puts the table into workgroup memory, twice 64 bytes. Its 16 words lie in different memory banks, so a load never
// waits for another. A table of the 256 pairs of two codes takes half of the loads, but lanes meet in its banks
// (benches/README.md).

import package::lib::half_rows::{Eight, as_half};
import package::lib::planes::{eight_at, low_words};
import package::lib::step::step_zero;
import package::slot::codes::code_numbers;
import package::slot::scale::{Scale, scale_load, scale_value, scale_word};

const BLOCK = 32u;

struct Block { words: vec4<u32>, scale: Scale }

struct Opaque { zero: u32 }

// What a code stands for, over 16, in the low and in the high half.
var<workgroup> low_of: array<u32, 16>;
var<workgroup> high_of: array<u32, 16>;

fn pairs_begin(thread: u32) {
    for (var code = thread; code < 16u; code += WG) {
        let number = 0.0625 * code_numbers(vec4<u32>(code, 0u, 0u, 0u)).x;
        low_of[code] = pack2x16float(vec2<f32>(number, 0.0));
        high_of[code] = pack2x16float(vec2<f32>(0.0, number));
    }
    workgroupBarrier();
}
fn opaque() -> Opaque { return Opaque(step_zero()); }
fn pairs_load(row: u32, block: u32) -> Block {
    return Block(low_words(row, block), scale_load(row * (W_COLS / W_GROUP) + block * BLOCK / W_GROUP));
}
fn pairs_at(block: u32, i: u32) -> u32 { return eight_at(block, i); }
fn pairs_eight(block: Block, i: u32, opaque: Opaque) -> Eight {
    var word = block.words[i];
    if i == 0u { word |= scale_word(block.scale) & opaque.zero; }
    return Eight(pair(word & 255u), pair((word >> 8u) & 255u), pair((word >> 16u) & 255u), pair(word >> 24u));
}
fn pairs_finish(block: Block, part: u32, product: f32, x_sum: f32) -> f32 {
    return product * (16.0 * scale_value(block.scale));
}

fn pair(codes: u32) -> vec2<f16> { return as_half(low_of[codes & 15u] | high_of[codes >> 4u]); }
