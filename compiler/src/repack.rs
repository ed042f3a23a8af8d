//! The repack step: from checkpoint bytes to a weight's layout in memory. The one place that reads weight bytes.
//!
//! It streams: any byte range of a packed weight can be made alone, so that an upload needs no second copy.

mod planes;

use crate::tensor::Rows;
use ingot_ir::plan::{PlanWeight, Segment};
use ingot_ir::weight::{Format, Layout, Part, factors_at_bytes, scales_at_bytes};
use planes::Arrangement;
use std::ops::Range;

pub use crate::tensor::{MakeRows, Tensor, TensorBytes};

/// Fills `out` with bytes `offset ..` of a weight in its layout. `tensor` finds a segment's bytes by name.
///
/// Panics if a tensor is smaller than the plan says: the loader checks shapes before.
pub fn fill<'a>(weight: &PlanWeight, tensor: &dyn Fn(&str) -> Tensor<'a>, offset: u64, out: &mut [u8]) {
    match weight.layout {
        Layout::Vector => fill_vector(weight, tensor, offset, out),
        Layout::Packed | Layout::Stored | Layout::Unassigned => fill_packed(weight, tensor, offset, out),
    }
}

/// All of a vector, widened to f32.
pub fn vector<'a>(weight: &PlanWeight, tensor: &dyn Fn(&str) -> Tensor<'a>) -> Vec<f32> {
    if !weight.inline.is_empty() {
        return weight.inline.clone();
    }
    let mut numbers = Vec::with_capacity(weight.n_rows as usize);
    let runs: Vec<Vec<f32>> = weight
        .segments
        .iter()
        .map(|segment| {
            let Tensor::Stored(stored) = tensor(&segment.tensor) else {
                unreachable!("vectors are stored as they are: {}", segment.tensor)
            };
            let number = |ix: u32| {
                let number = widen(weight.format, stored.values, segment.source_row(ix) as usize);
                if segment.plus_one { 1.0 + number } else { number }
            };
            (0..segment.n_rows).map(number).collect()
        })
        .collect();
    if weight.interleaved {
        let pairs = runs.chunks_exact(2).flat_map(|pair| pair[0].iter().zip(&pair[1]));
        pairs.for_each(|(a, b)| numbers.extend([*a, *b]));
    } else {
        runs.iter().for_each(|run| numbers.extend(run));
    }
    numbers
}

/// Whether the checkpoint's tensors have all the bytes that a weight takes from them. [`fill`] and [`vector`] rely on it.
///
/// # Errors
/// What is missing, by the tensor's name.
pub fn check<'a>(weight: &PlanWeight, tensor: &dyn Fn(&str) -> Option<Tensor<'a>>) -> Result<(), String> {
    for segment in &weight.segments {
        let name = &segment.tensor;
        let found = tensor(name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
        // In another order a run of rows comes from anywhere within its heads.
        let end = u64::from(segment.first_row) + u64::from(segment.n_rows);
        let rows = segment.order.map_or(end, |order| end.next_multiple_of(u64::from(order.head_dim.max(1))));
        let found = match found {
            Tensor::Stored(found) => found,
            Tensor::Made(made) => {
                let (format, n_rows) = (made.format(), u64::from(made.n_rows()));
                if weight.layout == Layout::Vector || (format, made.n_cols()) != (weight.format, weight.n_cols) {
                    let (n, own) = (made.n_cols(), weight.n_cols);
                    return Err(format!(
                        "tensor `{name}` has rows of {n} as {format}, not of {own} as {}",
                        weight.format
                    ));
                }
                if n_rows < rows {
                    return Err(format!("tensor `{name}` has {n_rows} rows, {rows} are needed"));
                }
                continue;
            }
        };
        let parts = weight.format.row_parts(weight.n_cols);
        let needs = [
            ("values", found.values, parts.values),
            ("scales", found.scales, parts.scales),
            ("biases", found.biases, parts.biases),
        ];
        for (part, bytes, row_bytes) in needs {
            let needed = rows.checked_mul(row_bytes).ok_or_else(|| format!("tensor `{name}` is absurdly large"))?;
            if (bytes.len() as u64) < needed {
                return Err(format!("tensor `{name}` has {} bytes of {part}, {needed} are needed", bytes.len()));
            }
        }
        let n_tensor_rows = (found.values.len() as u64).checked_div(parts.values).unwrap_or(0);
        if weight.format.has_global() && !global_fits(found.global, n_tensor_rows) {
            let n = found.global.len();
            return Err(format!("tensor `{name}` has {n} bytes of global scales for {n_tensor_rows} rows"));
        }
    }
    Ok(())
}

/// Whether global scales are one f32, or one for each equal part of a tensor's rows.
fn global_fits(global: &[u8], n_tensor_rows: u64) -> bool {
    let n = global.len() as u64 / 4;
    n > 0 && global.len().is_multiple_of(4) && n_tensor_rows.is_multiple_of(n)
}

fn widen(format: Format, values: &[u8], ix: usize) -> f32 {
    let half = |at: usize| u16::from_le_bytes([values[at], values[at + 1]]);
    match format {
        Format::F32 => f32::from_le_bytes([values[ix * 4], values[ix * 4 + 1], values[ix * 4 + 2], values[ix * 4 + 3]]),
        Format::Bf16 => f32::from_bits(u32::from(half(ix * 2)) << 16),
        Format::F16 => f16_to_f32(half(ix * 2)),
        _ => unreachable!("vectors are not quantized"),
    }
}

/// IEEE half to single precision, exact.
fn f16_to_f32(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    match exponent {
        0 => f32::from_bits(sign | (fraction as f32 / 16_777_216.0).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

fn fill_vector<'a>(weight: &PlanWeight, tensor: &dyn Fn(&str) -> Tensor<'a>, offset: u64, out: &mut [u8]) {
    let numbers = vector(weight, tensor);
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let offset = offset as usize;
    out.copy_from_slice(&bytes[offset..offset + out.len()]);
}

/// Where rows of a weight come from.
struct RowSources<'a> {
    weight: &'a PlanWeight,
    /// The first row of each segment, or of each pair of them.
    starts: Vec<u32>,
}

impl<'a> RowSources<'a> {
    fn new(weight: &'a PlanWeight) -> Self {
        let together = if weight.interleaved { 2 } else { 1 };
        let runs = weight.segments.chunks_exact(together);
        let start = |at: &mut u32, run: &'a [Segment]| {
            let start = *at;
            *at += run.iter().map(|segment| segment.n_rows).sum::<u32>();
            Some(start)
        };
        Self { weight, starts: runs.scan(0, start).collect() }
    }

    /// Segment and row of its tensor.
    fn find(&self, row: u32) -> (usize, u32) {
        let run = self.starts.partition_point(|start| *start <= row) - 1;
        let at = row - self.starts[run];
        if self.weight.interleaved {
            let segment = 2 * run + (at % 2) as usize;
            return (segment, self.weight.segments[segment].source_row(at / 2));
        }
        (run, self.weight.segments[run].source_row(at))
    }
}

fn fill_packed<'a>(weight: &PlanWeight, tensor: &dyn Fn(&str) -> Tensor<'a>, offset: u64, out: &mut [u8]) {
    let tensors: Vec<Tensor<'a>> = weight.segments.iter().map(|segment| tensor(&segment.tensor)).collect();
    let sources = RowSources::new(weight);
    let row_parts = weight.format.row_parts(weight.n_cols);
    // Scales and biases lie side by side.
    let (code_bytes, scale_bytes) = (row_parts.values, row_parts.scales + row_parts.biases);
    let codes_end = u64::from(weight.n_rows) * code_bytes;
    let scales_at = scales_at_bytes(weight.format, weight.n_rows, weight.n_cols);
    let scales_end = scales_at + u64::from(weight.n_rows) * scale_bytes;
    let end = offset + out.len() as u64;
    out.fill(0);
    let arrangement = Arrangement::of(weight.format, weight.n_cols);
    let low_bytes = arrangement.low_row_bytes(code_bytes);
    let low_end = u64::from(weight.n_rows) * low_bytes;
    let codes = rows_of(&sources, &tensors, Part::Values, rows_in(offset, end.min(low_end), 0, low_bytes));
    for_rows(offset, end.min(low_end), 0, low_bytes, |row, within, at, len| {
        arrangement.fill_low(codes.row(sources.find(row)), within, &mut out[at..at + len]);
    });
    // What lies before `offset` is not asked for.
    let (high_from, high_to, high_bytes) = (offset.max(low_end), end.min(codes_end), code_bytes - low_bytes);
    let high_out = (high_from - offset) as usize;
    let codes = rows_of(&sources, &tensors, Part::Values, rows_in(high_from, high_to, low_end, high_bytes));
    for_rows(high_from, high_to, low_end, high_bytes, |row, within, at, len| {
        let at = high_out + at;
        arrangement.fill_high(codes.row(sources.find(row)), within, &mut out[at..at + len]);
    });
    let scales_out = (offset.max(scales_at) - offset) as usize;
    let (scales_from, scales_to) = (offset.max(scales_at), end.min(scales_end));
    let scaled = rows_in(scales_from, scales_to, scales_at, scale_bytes);
    let rows = |part: Part| rows_of(&sources, &tensors, part, scaled.clone());
    let scales = rows(Part::Scales);
    if let Format::Affine { scales: kind, .. } = weight.format {
        // Scales and biases side by side, so that one load brings both.
        let (biases, step) = (rows(Part::Biases), kind.n_bytes() as usize);
        let mut pair_row = vec![0u8; scale_bytes as usize];
        for_rows(scales_from, scales_to, scales_at, scale_bytes, |row, within, at, len| {
            let source = sources.find(row);
            let ones = scales.row(source).chunks_exact(step).zip(biases.row(source).chunks_exact(step));
            for (pair, (scale, bias)) in pair_row.chunks_exact_mut(2 * step).zip(ones) {
                pair[..step].copy_from_slice(scale);
                pair[step..].copy_from_slice(bias);
            }
            let at = at + scales_out;
            out[at..at + len].copy_from_slice(&pair_row[within..within + len]);
        });
        return;
    }
    for_rows(scales_from, scales_to, scales_at, scale_bytes, |row, within, at, len| {
        let at = at + scales_out;
        out[at..at + len].copy_from_slice(&scales.row(sources.find(row))[within..within + len]);
    });
    if weight.format.has_global() {
        let factors_at = factors_at_bytes(weight.format, weight.n_rows, weight.n_cols);
        let factors_end = factors_at + 4 * u64::from(weight.n_rows);
        let factors_out = (offset.max(factors_at) - offset) as usize;
        for_rows(offset.max(factors_at), end.min(factors_end), factors_at, 4, |row, within, at, len| {
            let (segment, source) = sources.find(row);
            let Tensor::Stored(stored) = &tensors[segment] else {
                unreachable!("tensors with global scales are stored as they are")
            };
            let factor = global_factor(stored, source as usize, code_bytes as usize).to_le_bytes();
            let at = at + factors_out;
            out[at..at + len].copy_from_slice(&factor[within..within + len]);
        });
    }
}

/// One part of the tensors' rows that rows `rows` of a weight are made of.
fn rows_of<'t>(sources: &RowSources<'_>, tensors: &'t [Tensor<'_>], part: Part, rows: Range<u32>) -> Rows<'t> {
    let row_bytes = sources.weight.format.row_parts(sources.weight.n_cols).of(part) as usize;
    let mut needed = vec![0..0; tensors.len()];
    if tensors.iter().any(|tensor| matches!(tensor, Tensor::Made(_))) {
        for (segment, source) in rows.map(|row| sources.find(row)) {
            let needed: &mut Range<u32> = &mut needed[segment];
            let first = if needed.end == 0 { source } else { needed.start.min(source) };
            *needed = first..needed.end.max(source + 1);
        }
    }
    Rows::of(tensors, part, row_bytes, &needed)
}

/// The rows that bytes `start .. end` meet, where rows of `row_bytes` begin at byte `rows_at`.
fn rows_in(start: u64, end: u64, rows_at: u64, row_bytes: u64) -> Range<u32> {
    if start >= end || row_bytes == 0 {
        return 0..0;
    }
    ((start - rows_at) / row_bytes) as u32..(end - rows_at).div_ceil(row_bytes) as u32
}

/// What a row's scales are multiplied with: its global scale by the product of the largest e4m3 and e2m1 numbers.
fn global_factor(tensor: &TensorBytes<'_>, row: usize, row_bytes: usize) -> f32 {
    let n_rows = tensor.values.len() / row_bytes;
    let ix = row / (n_rows / (tensor.global.len() / 4));
    let bytes = &tensor.global[4 * ix..][..4];
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) / (448.0 * 6.0)
}

/// Calls `f(row, byte within the row, byte from `start`, length)` for every row that meets bytes `start .. end`, where
/// rows of `row_bytes` begin at byte `rows_at`.
fn for_rows(start: u64, end: u64, rows_at: u64, row_bytes: u64, mut f: impl FnMut(u32, usize, usize, usize)) {
    let mut at = start;
    while at < end && row_bytes > 0 {
        let row = (at - rows_at) / row_bytes;
        let within = (at - rows_at) % row_bytes;
        let len = (row_bytes - within).min(end - at);
        f(row as u32, within as usize, (at - start) as usize, len as usize);
        at += len;
    }
}
