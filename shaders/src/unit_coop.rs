//! Units of matrix-matrix products on cooperative matrices, as straight text: the module `package::slot::unit` of
//! `kernels/matmul_coop.wgsl`. Each matrix is a variable of its own, since a driver keeps an array of them in memory if it
//! does not unroll every loop over it.

use crate::consts::Consts;
use crate::coop::{self, Pieces};
use crate::link::Source;
use std::fmt::Write;

const HEAD: &str = "\
import package::lib::coop_tiles::{AREA, STRIDE, TILE_EIGHTS, UNITS, stage, stage_clear, stage_store};
import package::slot::eights::{EIGHTS_EACH, eights_at, eights_begin, eights_load, eights_weights};
import package::slot::halves::{HALVES, halves_put, tiles};
import package::slot::tile::{tile_product, x_row};
import package::slot::x::x_eight;

// A subgroup's part of a product on cooperative matrices: a unit of the tile, of a slice of its columns. Generated: sum_m_n
// is of the m-th SIDE rows of x and the n-th SIDE rows of W that the subgroup owns; an invocation brings eights x_i and
// blocks w_i into workgroup memory.

const TILE_BLOCKS = TILE_EIGHTS / EIGHTS_EACH;

";

/// The module's text for weights of which providers have blocks of `eights` eights.
pub(crate) fn generate(consts: &Consts, eights: u32) -> Source {
    let n = |name: &str| consts.u32(name);
    let unit = Unit {
        side: n("SIDE"),
        rows: n("UNIT_M") / n("SIDE"),
        columns: n("UNIT_N") / n("SIDE"),
        steps: n("TILE_K") / n("SLICES") / n("SIDE"),
        x: Pieces { all: n("TILE_M") * n("TILE_K") / 8, threads: n("WG") },
        w: Pieces { all: n("TILE_N") * n("TILE_K") / (8 * eights), threads: n("WG") },
        eights,
    };
    let mut text = HEAD.to_string();
    text.push_str(
        "fn unit_products(tile: u32, x_end: u32, w_base: u32, w_first: u32, thread: u32, subgroup: u32, lane: u32) {\n",
    );
    text.push_str("    let known_to_none = eights_begin(thread);\n");
    text.push_str("    let m_first = subgroup % UNITS / (TILE_N / UNIT_N) * UNIT_M;\n");
    text.push_str("    let n_first = subgroup % (TILE_N / UNIT_N) * UNIT_N;\n");
    text.push_str("    let k_first = subgroup / UNITS * (TILE_K / SLICES);\n");
    unit.places(&mut text);
    unit.clear(&mut text);
    unit.products(&mut text);
    unit.store(&mut text);
    text.push_str("}\n");
    Source::new("unit_coop(generated)", text)
}

/// How much is written out.
#[derive(Clone, Copy)]
struct Unit {
    /// Rows and columns of a matrix.
    side: u32,
    /// Matrices of a subgroup, one below the other.
    rows: u32,
    /// Matrices of a subgroup, side by side.
    columns: u32,
    /// Matrices along the columns of a slice.
    steps: u32,
    /// Eights of the tile of x.
    x: Pieces,
    /// Blocks of the tile of W.
    w: Pieces,
    /// Eights of a block.
    eights: u32,
}

impl Unit {
    /// (row, column) of every sum.
    fn sums(self) -> impl Iterator<Item = (u32, u32)> {
        (0..self.rows).flat_map(move |m| (0..self.columns).map(move |n| (m, n)))
    }

    /// A matrix type in a part of the product.
    fn matrix(self, scalar: &str, role: &str) -> String {
        coop::matrix(self.side, scalar, role)
    }

    /// What an invocation brings: the row, where in it, and the place in the tiles.
    fn places(self, text: &mut String) {
        for i in 0..self.x.each() {
            let _ = writeln!(text, "    let x_id_{i} = {};", self.x.id(i));
            let row = format!("min(tile_product(tile, x_id_{i} / TILE_EIGHTS), x_end - 1u)");
            let _ = writeln!(text, "    let x_row_{i} = x_row({row});");
            let at = format!("x_id_{i} / TILE_EIGHTS * STRIDE + x_id_{i} % TILE_EIGHTS * 8u");
            let _ = writeln!(text, "    let x_at_{i} = {at};");
        }
        for i in 0..self.w.each() {
            let _ = writeln!(text, "    let w_id_{i} = {};", self.w.id(i));
            let row = format!("min(w_first + w_id_{i} / TILE_BLOCKS, N - 1u)");
            let _ = writeln!(text, "    let w_row_{i} = w_base + {row};");
            let column = format!("w_id_{i} % TILE_BLOCKS * 8u * EIGHTS_EACH");
            let _ = writeln!(text, "    let w_at_{i} = (TILE_M + w_id_{i} / TILE_BLOCKS) * STRIDE + {column};");
        }
    }

    /// Sums of zero, by the way that every platform's matrices have.
    fn clear(self, text: &mut String) {
        text.push_str("    stage_clear(subgroup, lane);\n    workgroupBarrier();\n");
        for (m, n) in self.sums() {
            let matrix = self.matrix("f32", "C");
            let _ = writeln!(text, "    var sum_{m}_{n} = coopLoadT<{matrix}>(&stage[subgroup * AREA], SIDE);");
        }
    }

    /// Loads of what an invocation brings, from block `first` of the rows on. Of a block eights may lie in another order than in x,
    /// so x's eights come in that order.
    fn load(self, text: &mut String, pad: &str, word: &str, first: &str) {
        for i in 0..self.w.each() {
            let block = format!("{first} + w_id_{i} % TILE_BLOCKS");
            let _ = writeln!(text, "{pad}{word}w_{i} = eights_load(w_row_{i}, {block});");
        }
        for i in 0..self.x.each() {
            let place = format!("x_id_{i} % TILE_EIGHTS");
            let eight = format!("eights_at({first} + {place} / EIGHTS_EACH, {place} % EIGHTS_EACH)");
            let _ = writeln!(text, "{pad}{word}x_{i} = x_eight(x_row_{i}, {eight}).columns;");
        }
    }

    /// The same to its place in the tiles, weights as numbers.
    fn put(self, text: &mut String, pad: &str) {
        for i in 0..self.x.each() {
            let _ = writeln!(text, "{pad}{}{{ halves_put(x_at_{i}, x_{i}); }}", self.x.guard(i));
        }
        for i in 0..self.w.each() {
            let _ = writeln!(text, "{pad}{}{{", self.w.guard(i));
            for eight in 0..self.eights {
                let weights = format!("eights_weights(w_{i}, {eight}u, known_to_none)");
                let _ = writeln!(text, "{pad}    halves_put(w_at_{i} + {}u, {weights});", 8 * eight);
            }
            let _ = writeln!(text, "{pad}}}");
        }
    }

    /// Products of the tiles.
    fn multiply(self, text: &mut String) {
        let pad = "        ";
        let (a, b) = (self.matrix("f16", "A"), self.matrix("f16", "B"));
        for step in 0..self.steps {
            let k = step * self.side;
            for m in 0..self.rows {
                let at = format!("((m_first + {}u) * STRIDE + k_first + {k}u) / HALVES", m * self.side);
                let _ = writeln!(text, "{pad}let a_{step}_{m} = coopLoadT<{a}>(&tiles[{at}], STRIDE / HALVES);");
            }
            for n in 0..self.columns {
                let at = format!("((TILE_M + n_first + {}u) * STRIDE + k_first + {k}u) / HALVES", n * self.side);
                let _ = writeln!(text, "{pad}let b_{step}_{n} = coopLoad<{b}>(&tiles[{at}], STRIDE / HALVES);");
            }
            for (m, n) in self.sums() {
                let sum = format!("sum_{m}_{n}");
                let _ = writeln!(text, "{pad}{sum} = coopMultiplyAdd(a_{step}_{m}, b_{step}_{n}, {sum});");
            }
        }
    }

    /// All columns, a tile at a time; the next tile's come while one is multiplied. They are asked for in a branch of their
    /// own: a driver that could would do so after the products, where it sees their first use.
    fn products(self, text: &mut String) {
        let pad = "        ";
        self.load(text, "    ", "var ", "0u");
        text.push_str("    for (var k = 0u; k < K; k += TILE_K) {\n");
        self.put(text, pad);
        text.push_str("        workgroupBarrier();\n");
        text.push_str("        if k + TILE_K < K {\n");
        text.push_str("            let next = (k + TILE_K) / (8u * EIGHTS_EACH);\n");
        self.load(text, "            ", "", "next");
        text.push_str("        }\n");
        self.multiply(text);
        text.push_str("        workgroupBarrier();\n    }\n");
    }

    /// Finished sums, a matrix after the other through the subgroup's part of `stage`.
    fn store(self, text: &mut String) {
        for (m, n) in self.sums() {
            let _ =
                writeln!(text, "    coopStoreT(sum_{m}_{n}, &stage[subgroup * AREA], SIDE);\n    workgroupBarrier();");
            let places = format!("m_first + {}u, w_first + n_first + {}u", m * self.side, n * self.side);
            let _ = writeln!(text, "    stage_store(tile, x_end, {places}, subgroup, lane);\n    workgroupBarrier();");
        }
    }
}
