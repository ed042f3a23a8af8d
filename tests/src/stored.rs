//! Random checkpoint tensors in any stored format, with the numbers that they stand for.

use crate::rng::Rng;
use half::{bf16, f16};
use ingot_compiler::repack::{self, TensorBytes};
use ingot_ir::graph::Graph;
use ingot_ir::plan::PlanWeight;
use ingot_ir::weight::{Format, ScaleType, Source, Weight};
use ingot_runtime::cpu::execute::{StoredTensor, WeightSource};
use std::collections::BTreeMap;

/// One tensor: bytes as a checkpoint has them, and their numbers, row by row.
#[derive(Clone, Debug, Default)]
struct Tensor {
    values: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
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
        repack::fill(weight, &|name| self.bytes(name), offset, out);
    }

    /// A tensor's bytes as a checkpoint has them.
    pub fn bytes(&self, name: &str) -> TensorBytes<'_> {
        let Tensor { values, scales, biases, .. } = &self.0[name];
        TensorBytes { values, scales, biases }
    }
}

impl WeightSource for StoredTensors {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let Tensor { values, scales, biases, .. } = self.0.get(name)?;
        Some(StoredTensor { codes: values, scales, biases })
    }
    fn vector(&self, weight: &PlanWeight) -> Vec<f32> {
        repack::vector(weight, &|name| self.bytes(name))
    }
}

fn tensor(weight: &Weight, size: f32, rng: &mut Rng) -> Tensor {
    let n = (weight.n_rows * weight.n_cols) as usize;
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

/// `bits` bits of a stream from bit `at`, the lowest first.
fn code(stream: &[u8], at: usize, bits: usize) -> u32 {
    (0..bits).map(|bit| u32::from(stream[(at + bit) / 8] >> ((at + bit) % 8) & 1) << bit).sum()
}

fn float_type(format: Format) -> ScaleType {
    match format {
        Format::F32 => ScaleType::F32,
        Format::F16 => ScaleType::F16,
        Format::Bf16 => ScaleType::Bf16,
        Format::Affine { .. } => unreachable!("codes are not floats"),
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
