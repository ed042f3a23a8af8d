// Eights of quantized weights for products on matrix units, made of half-precision pairs of codes: what pairs_finish does to
// a sum of codes it does to one code, and that is a factor and a term.
//
// Every provider has these. A block is EIGHTS_EACH eights of a row; eights_load reads one, eights_at tells which eight of the
// row lies at its place i, eights_weights gives it, in the order of lib/half_rows. Invocations call eights_begin first.

import package::lib::half_rows::Eight;
import package::slot::pairs::{BLOCK, Block, Opaque, opaque, pairs_at, pairs_begin, pairs_eight, pairs_finish, pairs_load};

const EIGHTS_EACH = BLOCK / 8u;
// Eights of a block that have a scale in common.
const EIGHTS_SCALED = min(EIGHTS_EACH, W_GROUP / 8u);

fn eights_begin(thread: u32) -> Opaque {
    pairs_begin(thread);
    return opaque();
}
fn eights_load(row: u32, block: u32) -> Block { return pairs_load(row, block); }
fn eights_at(block: u32, i: u32) -> u32 { return pairs_at(block, i); }
fn eights_weights(block: Block, i: u32, opaque: Opaque) -> Eight {
    let codes = pairs_eight(block, i, opaque);
    let part = i / EIGHTS_SCALED;
    let factor = vec2<f16>(f16(pairs_finish(block, part, 1.0, 0.0)));
    let term = vec2<f16>(f16(pairs_finish(block, part, 0.0, 1.0)));
    return Eight(
        fma(codes.p0, factor, term),
        fma(codes.p1, factor, term),
        fma(codes.p2, factor, term),
        fma(codes.p3, factor, term),
    );
}
