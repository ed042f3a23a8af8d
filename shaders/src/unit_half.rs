//! Units of matrix-vector products in half precision, as straight text: the module `package::slot::unit` of kernels with HALF.
//!
//! Rows of W, rows of x, loads in flight and the words of a block are written out one by one. The same as loops over
//! arrays took 2.5 times as long on an H100: a driver that does not unroll all of them keeps sums in memory.

use crate::consts::Consts;
use crate::link::Source;
use std::fmt::Write;

/// Eights whose products are added in half precision: 8 products in each half of a pair.
const CHAIN: u32 = 2;

const HEAD: &str = "\
import package::lib::half_rows::{Eight, HALF_SCALE};
import package::lib::sums::{UNITS, part_products, part_squares};
import package::slot::x::{whole, x_eight};
import package::slot::prologue::HAS_SQUARES;
import package::slot::pairs::{BLOCK, Block, opaque, pairs_begin, pairs_load, pairs_at, pairs_eight, pairs_finish};
import package::slot::lanes::{Lanes, lane_of, n_lanes_of};

// A unit of a matrix-vector product in half precision: x and codes meet as pairs of f16, at most 8 products are added in
// f16, everything else in f32. Interface: slot/unit_single. Generated: sums S_r_m are of row r of W and row m of x.

const PRODUCTS_SCALE = 1.0 / HALF_SCALE;
const N_BLOCKS = (K + BLOCK - 1u) / BLOCK;
const BLOCKS_PER_PART = (N_BLOCKS + K_SPLIT - 1u) / K_SPLIT;

";

/// The module's text.
pub(crate) fn generate(consts: &Consts) -> Source {
    let (rows, xs, unroll) = (consts.u32("ROWS_PER_SUBGROUP"), consts.u32("M_MAX"), consts.u32("UNROLL"));
    // As providers of pairs have it: 16 columns a block of codes of 8 bits, 32 of others, and groups of 16 or more.
    let eights = if consts.u32("W_BITS") == 8 { 2 } else { 4 };
    let parts = if consts.u32("W_GROUP") == 16 { eights / CHAIN } else { 1 };
    let unit = Unit { rows, xs, eights, parts };
    let mut text = HEAD.to_string();
    text.push_str("fn unit_begin(thread: u32) { pairs_begin(thread); }\n");
    text.push_str(
        "fn unit_products(unit: u32, w_base: u32, w_first: u32, x_first: u32, x_last: u32, lanes: Lanes) {\n",
    );
    text.push_str("    let lane = lane_of(lanes);\n    let stride = n_lanes_of(lanes);\n");
    text.push_str("    let known_to_none = opaque();\n");
    text.push_str("    let w_row = w_first + unit / K_SPLIT * ROWS_PER_SUBGROUP;\n");
    text.push_str("    let part_first = unit % K_SPLIT * BLOCKS_PER_PART;\n");
    text.push_str("    let part_end = min(part_first + BLOCKS_PER_PART, N_BLOCKS);\n");
    for r in 0..rows {
        let _ = writeln!(text, "    let row_{r} = w_base + min(w_row + {r}u, N - 1u);");
    }
    for m in 0..xs {
        let _ = writeln!(text, "    let x_{m} = min(x_first + {m}u, x_last);\n    var squares_{m} = 0.0;");
    }
    for (r, m) in unit.sums() {
        let _ = writeln!(text, "    var sum_{r}_{m} = 0.0;");
    }
    text.push_str("    if unit < UNITS && w_row < N {\n        var block = part_first + lane;\n");
    if unroll > 1 {
        let _ = writeln!(
            text,
            "        for (; block + {}u * stride < part_end; block += {unroll}u * stride) {{",
            unroll - 1
        );
        unit.blocks(&mut text, unroll);
        text.push_str("        }\n");
    }
    text.push_str("        for (; block < part_end; block += stride) {\n");
    unit.blocks(&mut text, 1);
    text.push_str("        }\n    }\n");
    // All sums meet in one loop: of a sum after the other, each would wait for its own exchanges.
    text.push_str("    for (var apart = 1u; apart < stride; apart *= 2u) {\n");
    for (r, m) in unit.sums() {
        let _ = writeln!(text, "        sum_{r}_{m} += subgroupShuffleXor(sum_{r}_{m}, apart);");
    }
    for m in 0..xs {
        let squares = format!("squares_{m}");
        let _ = writeln!(text, "        if HAS_SQUARES {{ {squares} += subgroupShuffleXor({squares}, apart); }}");
    }
    text.push_str("    }\n    let is_writer = lane == 0u && unit < UNITS;\n");
    text.push_str("    if is_writer {\n        let at = unit * ROWS_PER_SUBGROUP * M_MAX;\n");
    for (r, m) in unit.sums() {
        let _ = writeln!(text, "        part_products[at + {}u] = sum_{r}_{m};", r * xs + m);
    }
    text.push_str("    }\n    if HAS_SQUARES {\n");
    for m in 0..xs {
        let _ = writeln!(text, "        if is_writer {{ part_squares[unit * M_MAX + {m}u] = squares_{m}; }}");
    }
    text.push_str("    }\n}\n");
    Source::new("unit_half(generated)", text)
}

/// How much is written out.
#[derive(Clone, Copy)]
struct Unit {
    /// Rows of W.
    rows: u32,
    /// Rows of x.
    xs: u32,
    /// Eights of a block.
    eights: u32,
    /// Parts of a block that have scales of their own.
    parts: u32,
}

impl Unit {
    /// (row of W, row of x) of every sum.
    fn sums(self) -> impl Iterator<Item = (u32, u32)> {
        (0..self.rows).flat_map(move |r| (0..self.xs).map(move |m| (r, m)))
    }

    /// The loads of `n` blocks of every row, then their products.
    fn blocks(self, text: &mut String, n: u32) {
        let at = |u: u32| if u == 0 { "block".to_string() } else { format!("block + {u}u * stride") };
        for u in 0..n {
            for r in 0..self.rows {
                let _ = writeln!(text, "            let w_{u}_{r} = pairs_load(row_{r}, {});", at(u));
            }
        }
        for u in 0..n {
            let _ = writeln!(text, "            {{ // block {u}\n                let b = {};", at(u));
            self.products(text, u);
            text.push_str("            }\n");
        }
    }

    /// Scales what a part of a block came to.
    fn finish(self, text: &mut String, u: u32, part: u32) {
        let pad = "                ";
        for (r, m) in self.sums() {
            let product = format!("product_{r}_{m}");
            let _ = writeln!(text, "{pad}sum_{r}_{m} += pairs_finish(w_{u}_{r}, {part}u, {product}, x_sum_{m});");
        }
        if part + 1 < self.parts {
            for (r, m) in self.sums() {
                let _ = writeln!(text, "{pad}product_{r}_{m} = 0.0;");
            }
            for m in 0..self.xs {
                let _ = writeln!(text, "{pad}x_sum_{m} = 0.0;");
            }
        }
    }

    /// The products of one block.
    fn products(self, text: &mut String, u: u32) {
        let pad = "                ";
        let eights_per_part = self.eights / self.parts;
        for m in 0..self.xs {
            let _ = writeln!(text, "{pad}var x_sum_{m} = 0.0;");
        }
        for (r, m) in self.sums() {
            let _ = writeln!(text, "{pad}var product_{r}_{m} = 0.0;");
        }
        for eight in 0..self.eights {
            let starts = eight % CHAIN == 0;
            let _ = writeln!(text, "{pad}let at_{eight} = pairs_at(b, {eight}u);");
            for r in 0..self.rows {
                let _ = writeln!(text, "{pad}let c_{eight}_{r} = pairs_eight(w_{u}_{r}, {eight}u, known_to_none);");
            }
            for m in 0..self.xs {
                let x = format!("v_{eight}_{m}");
                let _ = writeln!(text, "{pad}let {x} = x_eight(x_{m}, at_{eight});");
                let chain_sum = format!("chain_sum_{}_{m}", eight / CHAIN);
                if starts {
                    let _ = writeln!(text, "{pad}var {chain_sum} = {x}.sum;");
                } else {
                    let _ = writeln!(text, "{pad}{chain_sum} += {x}.sum;\n{pad}x_sum_{m} += whole({chain_sum});");
                }
                let _ = writeln!(text, "{pad}if HAS_SQUARES {{ squares_{m} += {x}.squares; }}");
                for r in 0..self.rows {
                    let chain = format!("chain_{}_{r}_{m}", eight / CHAIN);
                    let c = format!("c_{eight}_{r}");
                    let first = format!("{c}.p0 * {x}.columns.p0");
                    if starts {
                        let _ = writeln!(text, "{pad}var {chain} = {first};");
                    } else {
                        let _ = writeln!(text, "{pad}{chain} = fma({c}.p0, {x}.columns.p0, {chain});");
                    }
                    for p in 1..4 {
                        let _ = writeln!(text, "{pad}{chain} = fma({c}.p{p}, {x}.columns.p{p}, {chain});");
                    }
                    if !starts {
                        let _ = writeln!(text, "{pad}product_{r}_{m} += f32({chain}.x) + f32({chain}.y);");
                    }
                }
            }
            if (eight + 1) % eights_per_part == 0 {
                self.finish(text, u, eight / eights_per_part);
            }
        }
    }
}
