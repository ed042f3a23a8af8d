//! Random checkpoint tensors in any stored format, with the numbers that they stand for.

use crate::rng::Rng;
use half::{bf16, f16};
use ingot_compiler::repack::{self, TensorBytes};
use ingot_ir::graph::Graph;
use ingot_ir::plan::PlanWeight;
use ingot_ir::weight::{Format, KFormat, ScaleType, Source, Weight};
use ingot_runtime::cpu::execute::{StoredTensor, WeightSource};
use std::collections::BTreeMap;

/// One tensor: bytes as a checkpoint has them, and their numbers, row by row.
#[derive(Clone, Debug, Default)]
struct Tensor {
    values: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    global: Vec<u8>,
    numbers: Vec<f32>,
}

/// The tensors of a graph's weights by name.
#[derive(Clone, Debug, Default)]
pub struct StoredTensors(BTreeMap<String, Tensor>);

impl StoredTensors {
    /// Random tensors. Rows have length 1, so that products of numbers near 1 are near 1; those of tensors whose name
    /// begins with `embed`, and vectors, have numbers near 1.
    pub fn random(graph: &Graph, seed: u64) -> Self {
        let mut tensors = Self::default();
        for (_, weight) in graph.weights.iter() {
            if let Source::Tensor(name) = &weight.source {
                let is_large = weight.n_cols == 1 || name.starts_with("embed");
                let size = if is_large { 1.7 } else { (3.0 / weight.n_cols as f32).sqrt() };
                tensors.0.insert(name.clone(), tensor(weight, size, &mut Rng::named(name, seed)));
            }
        }
        tensors
    }

    /// Gives an f32 tensor other numbers.
    pub fn set(&mut self, name: &str, numbers: Vec<f32>) {
        let values = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.0.insert(name.to_owned(), Tensor { values, numbers, ..Tensor::default() });
    }

    /// A tensor's numbers, row by row.
    pub fn numbers(&self, name: &str) -> Vec<f32> {
        self.0[name].numbers.clone()
    }

    /// Bytes `offset ..` of a weight in its layout.
    pub fn fill(&self, weight: &PlanWeight, offset: u64, out: &mut [u8]) {
        repack::fill(weight, &|name| self.bytes(name).into(), offset, out);
    }

    /// A tensor's bytes as a checkpoint has them.
    pub fn bytes(&self, name: &str) -> TensorBytes<'_> {
        let Tensor { values, scales, biases, global, .. } = &self.0[name];
        TensorBytes { values, scales, biases, global }
    }
}

impl WeightSource for StoredTensors {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let Tensor { values, scales, biases, global, .. } = self.0.get(name)?;
        Some(StoredTensor { codes: values, scales, biases, global })
    }
    fn vector(&self, weight: &PlanWeight) -> Vec<f32> {
        repack::vector(weight, &|name| self.bytes(name).into())
    }
}

fn tensor(weight: &Weight, size: f32, rng: &mut Rng) -> Tensor {
    let n = (weight.n_rows * weight.n_cols) as usize;
    if let Format::Mxfp4 | Format::Mxfp8 | Format::Nvfp4 { .. } = weight.format {
        return small_floats(weight, size, rng);
    }
    if let Format::K(k) = weight.format {
        return k_blocks(weight, k, size, rng);
    }
    let Format::Affine { bits, group, scales } = weight.format else {
        let stored = rng.numbers(n, size).into_iter().map(|number| store(float_type(weight.format), number));
        let (values, numbers): (Vec<Vec<u8>>, Vec<f32>) = stored.unzip();
        return Tensor { values: values.concat(), numbers, ..Tensor::default() };
    };
    let (bits, group) = (usize::from(bits), usize::from(group));
    let n_cols = weight.n_cols as usize;
    let mut out = Tensor { values: (0..n * bits / 8).map(|_| rng.below(256) as u8).collect(), ..Tensor::default() };
    let levels = (1u32 << bits) as f32;
    for row in out.values.chunks_exact(n_cols * bits / 8) {
        for first in (0..n_cols).step_by(group) {
            // Scales of both signs and unlike sizes; the bias centres the numbers roughly.
            let sign = if rng.below(2) == 0 { 1.0 } else { -1.0 };
            let scale = sign * size * 2.0 / levels * (0.75 + 0.25 * rng.signed());
            let bias = -scale * levels / 2.0 * (1.0 + 0.1 * rng.signed());
            let ((scale_bytes, scale), (bias_bytes, bias)) = (store(scales, scale), store(scales, bias));
            out.scales.extend(scale_bytes);
            out.biases.extend(bias_bytes);
            out.numbers
                .extend((first..first + group).map(|column| code(row, column * bits, bits) as f32 * scale + bias));
        }
    }
    out
}

/// Random codes of small floats, but for e4m3's NaN, with scales that make numbers of about `size`.
fn small_floats(weight: &Weight, size: f32, rng: &mut Rng) -> Tensor {
    let (bits, group) = match weight.format {
        Format::Mxfp8 => (8, 32),
        Format::Mxfp4 => (4, 32),
        _ => (4, 16),
    };
    let is_e4m3 = matches!(weight.format, Format::Nvfp4 { .. });
    let (n_rows, n_cols) = (weight.n_rows as usize, weight.n_cols as usize);
    let mut out = Tensor::default();
    let mut factors = vec![1.0; n_rows];
    if weight.format.has_global() {
        // Two parts where the rows allow it.
        let n_parts = if n_rows.is_multiple_of(2) { 2 } else { 1 };
        let parts: Vec<f32> = (0..n_parts).map(|part| 2688.0 * size * (part + 1) as f32 / 4.0).collect();
        out.global = parts.iter().flat_map(|global| global.to_le_bytes()).collect();
        factors = (0..n_rows).map(|row| parts[row * n_parts / n_rows] / 2688.0).collect();
    }
    for factor in factors {
        let first = out.values.len();
        out.values.extend((0..n_cols * bits / 8).map(|_| match rng.below(256) as u8 {
            0x7f | 0xff if bits == 8 => 0x7e,
            byte => byte,
        }));
        for group_first in (0..n_cols).step_by(group) {
            let (byte, scale) = if is_e4m3 {
                // Of a scale that is not global: a power of two near the size, and fractions.
                let unit = if weight.format.has_global() { 1.0 } else { size / 4.0 };
                let power = (unit.log2().round() as i32 + 7 - rng.below(3) as i32).clamp(0, 14);
                let byte = (power << 3) as u8 | rng.below(8) as u8;
                (byte, minifloat(u32::from(byte), 4, 3, 7))
            } else {
                let largest = if bits == 8 { 8 } else { 2 };
                let power = size.log2().round() as i32 - largest - rng.below(3) as i32;
                // Now and then the smallest scale: its numbers are next to nothing.
                let byte = if rng.below(16) == 0 { 0 } else { (power + 127) as u8 };
                (byte, 2f32.powi(i32::from(byte) - 127))
            };
            out.scales.push(byte);
            out.numbers.extend((group_first..group_first + group).map(|column| {
                let code = code(&out.values[first..], column * bits, bits);
                let number = if bits == 8 { minifloat(code, 4, 3, 7) } else { minifloat(code, 2, 1, 1) };
                number * (scale * factor)
            }));
        }
    }
    out
}

/// Random codes and headers of GGUF's blocks, with units that make numbers of about `size`.
fn k_blocks(weight: &Weight, k: KFormat, size: f32, rng: &mut Rng) -> Tensor {
    const TABLE: [f32; 16] =
        [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];
    let (bits, group, block) = (k.bits() as usize, k.group() as usize, k.block() as usize);
    let (n_rows, n_cols) = (weight.n_rows as usize, weight.n_cols as usize);
    let n_bytes = k.header_bytes() as usize;
    let mut out = Tensor::default();
    for _ in 0..n_rows {
        let first = out.values.len();
        out.values.extend((0..n_cols * bits / 8).map(|_| rng.below(256) as u8));
        for block_first in (0..n_cols).step_by(block) {
            let n_units = if k == KFormat::Iq4Nl { 2 } else { 4 };
            let mut header: Vec<u8> = (0..n_bytes - n_units).map(|_| rng.below(256) as u8).collect();
            let (unit, unit_of_minimum) = match k {
                KFormat::Q2K => (size / 24.0, size / 16.0),
                KFormat::Q4K | KFormat::Q5K => {
                    // Six bits each, as in a file.
                    header.iter_mut().for_each(|byte| *byte &= 63);
                    (size / 32.0 / (1u32 << bits) as f32, size / 64.0)
                }
                KFormat::Q3K => {
                    header.iter_mut().for_each(|byte| *byte = (*byte & 63).wrapping_sub(32));
                    (size / 64.0, 0.0)
                }
                KFormat::Q6K => (size / 2048.0, 0.0),
                KFormat::Iq4Xs => {
                    header.iter_mut().for_each(|byte| *byte = (*byte & 63).wrapping_sub(32));
                    (size / 2000.0, 0.0)
                }
                KFormat::Iq4Nl => (size / 80.0, 0.0),
            };
            let unit = f16::from_f32(unit * (1.0 + 0.25 * rng.signed()));
            let minimum = f16::from_f32(unit_of_minimum);
            header.extend(unit.to_le_bytes());
            if n_units == 4 {
                header.extend(minimum.to_le_bytes());
            }
            let (unit, minimum) = (unit.to_f32(), minimum.to_f32());
            for column in block_first..block_first + block {
                let code = code(&out.values[first..], column * bits, bits);
                let byte = header[(column - block_first) / group];
                let signed = f32::from(byte as i8);
                out.numbers.push(match k {
                    KFormat::Q2K => unit * f32::from(byte & 15) * code as f32 - minimum * f32::from(byte >> 4),
                    KFormat::Q4K | KFormat::Q5K => {
                        let low = header[8 + (column - block_first) / group];
                        unit * f32::from(byte) * code as f32 - minimum * f32::from(low)
                    }
                    KFormat::Q3K => unit * signed * (code as f32 - 4.0),
                    KFormat::Q6K => unit * signed * (code as f32 - 32.0),
                    KFormat::Iq4Xs => unit * signed * TABLE[code as usize],
                    KFormat::Iq4Nl => unit * TABLE[code as usize],
                });
            }
            out.scales.extend(header);
        }
    }
    out
}

/// The number of a sign, `exponent` bits and `fraction` bits.
fn minifloat(code: u32, exponent: u32, fraction: u32, bias: i32) -> f32 {
    let power = (code >> fraction & ((1 << exponent) - 1)) as i32;
    let part = (code & ((1 << fraction) - 1)) as f32 / (1u32 << fraction) as f32;
    let size = if power == 0 { part * 2f32.powi(1 - bias) } else { (1.0 + part) * 2f32.powi(power - bias) };
    if code >> (exponent + fraction) & 1 == 1 { -size } else { size }
}

/// `bits` bits of a stream from bit `at`, the lowest first.
fn code(stream: &[u8], at: usize, bits: usize) -> u32 {
    (0..bits).map(|bit| u32::from(stream[(at + bit) / 8] >> ((at + bit) % 8) & 1) << bit).sum()
}

fn float_type(format: Format) -> ScaleType {
    match format {
        Format::F32 => ScaleType::F32,
        Format::F16 => ScaleType::F16,
        Format::Bf16 => ScaleType::Bf16,
        _ => unreachable!("codes are not floats"),
    }
}

/// A number's bytes in a type, and what is left of it.
fn store(as_type: ScaleType, number: f32) -> (Vec<u8>, f32) {
    match as_type {
        ScaleType::F32 => (number.to_le_bytes().to_vec(), number),
        ScaleType::F16 => (f16::from_f32(number).to_le_bytes().to_vec(), f16::from_f32(number).to_f32()),
        ScaleType::Bf16 => (bf16::from_f32(number).to_le_bytes().to_vec(), bf16::from_f32(number).to_f32()),
    }
}
