// Eights of weights of 16-bit numbers, W_COLS a multiple of 8. Interface: slot/eights_pairs.

import package::lib::half_rows::Eight;
import package::slot::weight::{Block, weight_load, weight_quad};

const EIGHTS_EACH = 1u;

struct Opaque { nothing: u32 }

fn eights_begin(thread: u32) -> Opaque { return Opaque(0u); }
fn eights_load(row: u32, block: u32) -> Block { return weight_load(row, block); }
fn eights_at(block: u32, i: u32) -> u32 { return block; }
fn eights_weights(block: Block, i: u32, opaque: Opaque) -> Eight {
    let low = weight_quad(block, 0u);
    let high = weight_quad(block, 1u);
    return Eight(
        vec2<f16>(vec2<f32>(low.x, high.x)),
        vec2<f16>(vec2<f32>(low.y, high.y)),
        vec2<f16>(vec2<f32>(low.z, high.z)),
        vec2<f16>(vec2<f32>(low.w, high.w)),
    );
}
