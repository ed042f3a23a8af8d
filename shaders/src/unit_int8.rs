//! Units of matrix-vector products in whole numbers, as straight text: the module `package::slot::unit` of kernels with INT8.
//! Codes meet activations that the workgroup has rounded to 8 bits, four products an instruction.

use crate::consts::Consts;
use crate::link::Source;
use std::fmt::Write;

const HEAD: &str = "\
import package::lib::half_rows::HALF_SCALE;
import package::lib::sums::{UNITS, part_products};
import package::lib::x_bytes::{N_BLOCKS, X_BLOCKS, x_bytes_make, x_scales, x_words};
import package::slot::bytes::{bytes_eight, bytes_finish, bytes_load};
import package::slot::lanes::{Lanes, lane_of, n_lanes_of};

// A unit of a matrix-vector product in whole numbers: sums of a block are exact, everything else is f32. Interface:
// slot/unit_single. Generated: sums S_r_m are of row r of W and row m of x. The K_SPLIT teams of rows take blocks in turn.

const PRODUCTS_SCALE = 1.0 / HALF_SCALE;

";

/// The module's text.
pub(crate) fn generate(consts: &Consts) -> Source {
    let (rows, xs) = (consts.u32("ROWS_PER_SUBGROUP"), consts.u32("M_MAX"));
    let sums = || (0..rows).flat_map(move |r| (0..xs).map(move |m| (r, m)));
    let mut text = HEAD.to_string();
    text.push_str("fn unit_begin(thread: u32) {}\n");
    text.push_str(
        "fn unit_products(unit: u32, w_base: u32, w_first: u32, x_first: u32, x_last: u32, lanes: Lanes) {\n",
    );
    text.push_str("    let lane = lane_of(lanes);\n    let stride = n_lanes_of(lanes);\n");
    text.push_str("    let w_row = w_first + unit / K_SPLIT * ROWS_PER_SUBGROUP;\n");
    text.push_str("    let is_mine = unit < UNITS && w_row < N;\n");
    for r in 0..rows {
        let _ = writeln!(text, "    let row_{r} = w_base + min(w_row + {r}u, N - 1u);");
    }
    for (r, m) in sums() {
        let _ = writeln!(text, "    var sum_{r}_{m} = 0.0;");
    }
    text.push_str("    for (var first = 0u; first < N_BLOCKS; first += X_BLOCKS) {\n");
    // The first weights are on their way while x is rounded.
    text.push_str("        let begin = unit % K_SPLIT * stride + lane;\n");
    for r in 0..rows {
        let _ = writeln!(text, "        var w_{r} = bytes_load(row_{r}, min(first + begin, N_BLOCKS - 1u));");
    }
    text.push_str("        workgroupBarrier();\n        x_bytes_make(first, x_first, x_last, lanes);\n");
    text.push_str("        workgroupBarrier();\n");
    text.push_str("        let end = select(0u, min(X_BLOCKS, N_BLOCKS - first), is_mine);\n");
    text.push_str("        for (var b = begin; b < end; b += K_SPLIT * stride) {\n");
    let pad = "            ";
    for r in 0..rows {
        let _ = writeln!(text, "{pad}if b != begin {{ w_{r} = bytes_load(row_{r}, first + b); }}");
    }
    for (r, m) in sums() {
        let _ = writeln!(text, "{pad}var whole_{r}_{m} = 0i;");
    }
    for place in 0..4 {
        for r in 0..rows {
            let _ = writeln!(text, "{pad}let c_{place}_{r} = bytes_eight(w_{r}, {place}u);");
        }
        for m in 0..xs {
            let _ = writeln!(text, "{pad}let x_{place}_{m} = x_words[{}u * X_BLOCKS + b];", m * 4 + place);
            for r in 0..rows {
                for part in ["x", "y"] {
                    let product = format!("dot4I8Packed(c_{place}_{r}.{part}, x_{place}_{m}.{part})");
                    let _ = writeln!(text, "{pad}whole_{r}_{m} += {product};");
                }
            }
        }
    }
    for m in 0..xs {
        let _ = writeln!(text, "{pad}let scale_{m} = x_scales[{m}u * X_BLOCKS + b];");
    }
    for (r, m) in sums() {
        let product = format!("f32(whole_{r}_{m}) * scale_{m}.x");
        let _ = writeln!(text, "{pad}sum_{r}_{m} += bytes_finish(w_{r}, {product}, scale_{m}.y);");
    }
    text.push_str("        }\n    }\n");
    text.push_str("    for (var apart = 1u; apart < stride; apart *= 2u) {\n");
    for (r, m) in sums() {
        let _ = writeln!(text, "        sum_{r}_{m} += subgroupShuffleXor(sum_{r}_{m}, apart);");
    }
    text.push_str("    }\n    if lane == 0u && unit < UNITS {\n        let at = unit * ROWS_PER_SUBGROUP * M_MAX;\n");
    for (r, m) in sums() {
        let _ = writeln!(text, "        part_products[at + {}u] = sum_{r}_{m};", r * xs + m);
    }
    text.push_str("    }\n}\n");
    Source::new("unit_int8(generated)", text)
}
