//! Units of matrix-matrix products on cooperative matrices, as straight text: the module `package::slot::unit` of
//! `kernels/matmul_coop.wgsl`. Each matrix is a variable of its own, since a driver keeps an array of them in memory if it
//! does not unroll every loop over it.

use crate::consts::Consts;
use crate::link::Source;
use std::fmt::Write;

const HEAD: &str = "\
import package::lib::coop_tiles::{AREA, BUFFER, TILE_EIGHTS, STRIDE, stage, stage_clear, stage_store, w_halves, x_halves};
import package::slot::halves::{HALVES, halves_put, tiles};
import package::slot::tile::{tile_product, x_row};

// A subgroup's part of a product on cooperative matrices. Generated: sum_m_n is of the m-th SIDE rows of x and the n-th SIDE
// rows of W that the subgroup owns; an invocation brings eights x_i and w_i into workgroup memory.

";

/// The module's text.
pub(crate) fn generate(consts: &Consts) -> Source {
    let n = |name: &str| consts.u32(name);
    let eights = |rows: &str| n(rows) * n("TILE_K") / 8;
    let unit = Unit {
        side: n("SIDE"),
        rows: n("UNIT_M") / n("SIDE"),
        columns: n("UNIT_N") / n("SIDE"),
        steps: n("TILE_K") / n("SIDE"),
        threads: n("WG"),
        x_eights: eights("TILE_M"),
        w_eights: eights("TILE_N"),
        buffers: n("BUFFERS"),
    };
    let mut text = HEAD.to_string();
    text.push_str("fn unit_products(tile: u32, x_end: u32, w_base: u32, w_first: u32, thread: u32, subgroup: u32, lane: u32) {\n");
    text.push_str("    let m_first = subgroup / (TILE_N / UNIT_N) * UNIT_M;\n");
    text.push_str("    let n_first = subgroup % (TILE_N / UNIT_N) * UNIT_N;\n");
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
    /// Matrices along the columns of a tile.
    steps: u32,
    /// Invocations of a workgroup.
    threads: u32,
    /// Eights of the tile of x.
    x_eights: u32,
    /// Eights of the tile of W.
    w_eights: u32,
    /// Buffers of tiles.
    buffers: u32,
}

impl Unit {
    /// (row, column) of every sum.
    fn sums(self) -> impl Iterator<Item = (u32, u32)> {
        (0..self.rows).flat_map(move |m| (0..self.columns).map(move |n| (m, n)))
    }

    /// A matrix type in a part of the product.
    fn matrix(self, scalar: &str, role: &str) -> String {
        format!("coop_mat{0}x{0}<{scalar}, {role}>", self.side)
    }

    /// Eights that an invocation brings: x's, then W's.
    fn eights(self) -> impl Iterator<Item = (&'static str, u32, u32)> {
        [("x", self.x_eights), ("w", self.w_eights)]
            .into_iter()
            .flat_map(move |(of, all)| (0..all.div_ceil(self.threads)).map(move |i| (of, i, all)))
    }

    /// Which eights an invocation brings: their row, first column and place in a buffer.
    fn places(self, text: &mut String) {
        for (of, i, all) in self.eights() {
            let id = format!("thread + {}u", i * self.threads);
            // The last invocations repeat what another brings, and do not store it.
            let id = if (i + 1) * self.threads > all { format!("min({id}, {}u)", all - 1) } else { id };
            let _ = writeln!(text, "    let {of}_id_{i} = {id};");
            let (row, first) = match of {
                "x" => (format!("x_row(min(tile_product(tile, x_id_{i} / TILE_EIGHTS), x_end - 1u))"), ""),
                _ => (format!("w_base + min(w_first + w_id_{i} / TILE_EIGHTS, N - 1u)"), "TILE_M + "),
            };
            let _ = writeln!(text, "    let {of}_row_{i} = {row};");
            let at = format!("({first}{of}_id_{i} / TILE_EIGHTS) * STRIDE + {of}_id_{i} % TILE_EIGHTS * 8u");
            let _ = writeln!(text, "    let {of}_at_{i} = {at};");
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

    /// Loads of an invocation's eights, from eight `first` of their rows on.
    fn load(self, text: &mut String, pad: &str, word: &str, first: &str) {
        for (of, i, _) in self.eights() {
            let _ = writeln!(
                text,
                "{pad}{word}{of}_{i} = {of}_halves({of}_row_{i}, {first} + {of}_id_{i} % TILE_EIGHTS);"
            );
        }
    }

    /// The same to their places in a buffer.
    fn put(self, text: &mut String, pad: &str, buffer: &str) {
        for (of, i, all) in self.eights() {
            let put = format!("halves_put({buffer}{of}_at_{i}, {of}_{i});");
            if (i + 1) * self.threads > all {
                let _ = writeln!(text, "{pad}if thread < {}u {{ {put} }}", all - i * self.threads);
            } else {
                let _ = writeln!(text, "{pad}{put}");
            }
        }
    }

    /// Products of a buffer's tiles.
    fn multiply(self, text: &mut String, buffer: &str) {
        let pad = "        ";
        let (a, b) = (self.matrix("f16", "A"), self.matrix("f16", "B"));
        for step in 0..self.steps {
            let k = step * self.side;
            for m in 0..self.rows {
                let at = format!("({buffer}(m_first + {}u) * STRIDE + {k}u) / HALVES", m * self.side);
                let _ = writeln!(text, "{pad}let a_{step}_{m} = coopLoadT<{a}>(&tiles[{at}], STRIDE / HALVES);");
            }
            for n in 0..self.columns {
                let at = format!("({buffer}(TILE_M + n_first + {}u) * STRIDE + {k}u) / HALVES", n * self.side);
                let _ = writeln!(text, "{pad}let b_{step}_{n} = coopLoad<{b}>(&tiles[{at}], STRIDE / HALVES);");
            }
            for (m, n) in self.sums() {
                let sum = format!("sum_{m}_{n}");
                let _ = writeln!(text, "{pad}{sum} = coopMultiplyAdd(a_{step}_{m}, b_{step}_{n}, {sum});");
            }
        }
    }

    /// All columns, a tile at a time. The next tile's numbers come while a tile is multiplied: with two buffers they also
    /// go to workgroup memory before everybody waits for everybody, with one afterwards.
    fn products(self, text: &mut String) {
        let pad = "        ";
        let next = "min(k + TILE_K, K - TILE_K) / 8u";
        self.load(text, "    ", "var ", "0u");
        if self.buffers == 1 {
            text.push_str("    for (var k = 0u; k < K; k += TILE_K) {\n");
            self.put(text, pad, "");
            text.push_str("        workgroupBarrier();\n");
            let _ = writeln!(text, "{pad}let next = {next};");
            self.load(text, pad, "", "next");
            self.multiply(text, "");
            text.push_str("        workgroupBarrier();\n    }\n");
        } else {
            self.put(text, "    ", "");
            text.push_str("    workgroupBarrier();\n    var buffer = 0u;\n");
            text.push_str("    for (var k = 0u; k < K; k += TILE_K) {\n");
            let _ = writeln!(text, "{pad}let next = {next};");
            self.load(text, pad, "", "next");
            self.multiply(text, "buffer + ");
            text.push_str("        buffer = BUFFER - buffer;\n");
            self.put(text, pad, "buffer + ");
            text.push_str("        workgroupBarrier();\n    }\n");
        }
    }

    /// Finished sums, a matrix after the other through the subgroup's part of `stage`.
    fn store(self, text: &mut String) {
        for (m, n) in self.sums() {
            let _ = writeln!(text, "    coopStoreT(sum_{m}_{n}, &stage[subgroup * AREA], SIDE);\n    workgroupBarrier();");
            let places = format!("m_first + {}u, w_first + n_first + {}u", m * self.side, n * self.side);
            let _ = writeln!(text, "    stage_store(tile, x_end, {places}, subgroup, lane);\n    workgroupBarrier();");
        }
    }
}
