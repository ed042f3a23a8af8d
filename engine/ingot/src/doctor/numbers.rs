//! Made-up weights in every format. A number is a power of two times 1, 1.25, 1.5 or 1.75, so every type holds it.

use ingot_compiler::repack::TensorBytes;
use ingot_ir::graph::Graph;
use ingot_ir::weight::{Format, ScaleType, Source};
use std::collections::BTreeMap;

/// A tensor's bytes.
#[derive(Default)]
struct Tensor {
    values: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

/// The tensors of a graph, the same each time.
pub(crate) struct MadeWeights(BTreeMap<String, Tensor>);

impl MadeWeights {
    /// Numbers for every tensor that a graph names.
    pub(crate) fn new(graph: &Graph) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut tensors = BTreeMap::new();
        for weight in graph.weights.as_slice() {
            let Source::Tensor(name) = &weight.source else { continue };
            let n = weight.n_rows as usize * weight.n_cols as usize;
            tensors.insert(name.clone(), tensor(&mut random, weight.format, n, name.starts_with('n')));
        }
        Self(tensors)
    }

    /// A tensor's bytes.
    pub(crate) fn find(&self, name: &str) -> Option<TensorBytes<'_>> {
        let Tensor { values, scales, biases } = self.0.get(name)?;
        Some(TensorBytes { values, scales, biases })
    }
}

fn tensor(random: &mut Random, format: Format, n: usize, is_norm: bool) -> Tensor {
    let mut tensor = Tensor::default();
    if let Format::Affine { bits, group, scales } = format {
        tensor.values = (0..n * usize::from(bits) / 8).map(|_| random.below(256) as u8).collect();
        for _ in 0..n / usize::from(group) {
            // Codes become numbers around zero, up to a quarter: the bias is the middle code's. There is one code more on
            // one side of it than on the other, and signs in turn keep matrices from having a mean.
            let negative = random.below(2) == 1;
            let (power, quarters) = (-(i32::from(bits)) - 1 - random.below(2) as i32, random.below(4));
            push(&mut tensor.scales, scales, negative, power, quarters);
            push(&mut tensor.biases, scales, !negative, power + i32::from(bits) - 1, quarters);
        }
        return tensor;
    }
    let ty = match format {
        Format::F16 => ScaleType::F16,
        Format::Bf16 => ScaleType::Bf16,
        _ => ScaleType::F32,
    };
    for _ in 0..n {
        let power = if is_norm { -1 } else { -3 - random.below(4) as i32 };
        let (negative, quarters) = (!is_norm && random.below(2) == 1, random.below(4));
        push(&mut tensor.values, ty, negative, power, quarters);
    }
    tensor
}

/// Appends `2^power * (1 + quarters / 4)` with a sign.
fn push(bytes: &mut Vec<u8>, ty: ScaleType, negative: bool, power: i32, quarters: u32) {
    let sign = u32::from(negative);
    let half = |exponent_bias: i32, fraction_bits: u32| {
        let exponent = (power + exponent_bias) as u32;
        (sign << 15 | exponent << fraction_bits | quarters << (fraction_bits - 2)) as u16
    };
    match ty {
        ScaleType::F16 => bytes.extend(half(15, 10).to_le_bytes()),
        ScaleType::Bf16 => bytes.extend(half(127, 7).to_le_bytes()),
        ScaleType::F32 => bytes.extend((u32::from(half(127, 7)) << 16).to_le_bytes()),
    }
}

/// A 64-bit linear congruential generator (Knuth's MMIX numbers).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(n)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_in_every_type() {
        for (negative, power, quarters, expected) in
            [(false, -3, 1, 0.15625f32), (true, 0, 3, -1.75), (false, -11, 0, 0.00048828125)]
        {
            let of = |ty| {
                let mut bytes = Vec::new();
                push(&mut bytes, ty, negative, power, quarters);
                bytes
            };
            assert_eq!(of(ScaleType::F32), expected.to_le_bytes());
            assert_eq!(of(ScaleType::Bf16), expected.to_le_bytes()[2..]);
            let bits = u16::from_le_bytes(of(ScaleType::F16).try_into().unwrap());
            let (exponent, fraction) = (i32::from(bits >> 10 & 31) - 15, f32::from(bits & 1023) / 1024.0);
            assert_eq!((1.0 + fraction) * 2f32.powi(exponent) * if bits >> 15 == 1 { -1.0 } else { 1.0 }, expected);
        }
    }
}
