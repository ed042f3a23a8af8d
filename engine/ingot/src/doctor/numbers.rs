//! Made-up weights in every format. A number is a power of two times 1, 1.25, 1.5 or 1.75, so every type holds it.

use ingot_compiler::repack::TensorBytes;
use ingot_ir::graph::Graph;
use ingot_ir::weight::{Format, KFormat, ScaleType, Source};
use std::collections::BTreeMap;

/// A tensor's bytes.
#[derive(Default)]
struct Tensor {
    values: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    global: Vec<u8>,
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
        let Tensor { values, scales, biases, global } = self.0.get(name)?;
        Some(TensorBytes { values, scales, biases, global })
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
    if let Format::K(k) = format {
        return k_blocks(random, k, n);
    }
    if format.is_quantized() {
        // Numbers up to a quarter: codes of half the exponents at most, so that signs and sizes of all kinds occur.
        let (is_byte, scale) = match format {
            Format::Mxfp8 => (true, 127 - 3),
            Format::Mxfp4 => (false, 127 - 5),
            // e4m3's 1; the global scale makes it 1/16.
            _ => (false, 7 << 3),
        };
        let n_codes = if is_byte { n } else { n / 2 };
        tensor.values = (0..n_codes)
            .map(|_| match random.below(256) as u8 {
                byte if is_byte => byte & 0xbf,
                byte => byte,
            })
            .collect();
        let group = if matches!(format, Format::Nvfp4 { .. }) { 16 } else { 32 };
        tensor.scales = (0..n / group).map(|_| scale - random.below(2) as u8).collect();
        if format.has_global() {
            tensor.global = (448.0 * 6.0 / 16.0f32).to_le_bytes().to_vec();
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

/// Codes of GGUF's blocks: numbers around zero, up to about a quarter.
fn k_blocks(random: &mut Random, k: KFormat, n: usize) -> Tensor {
    let values = (0..n * k.bits() as usize / 8).map(|_| random.below(256) as u8).collect();
    let mut tensor = Tensor { values, ..Tensor::default() };
    let power = match k {
        KFormat::Iq4Nl => -9,
        KFormat::Iq4Xs => -12,
        _ => -(k.bits() as i32) - 4,
    };
    for _ in 0..n / k.block() as usize {
        let mut small = |count: usize| -> Vec<u8> { (0..count).map(|_| 4 + random.below(4) as u8).collect() };
        let header = match k {
            // Minima like the scales, in units so large that the middle code is zero.
            KFormat::Q2K => small(16).into_iter().map(|scale| scale | scale << 4).collect(),
            KFormat::Q4K | KFormat::Q5K => small(8).repeat(2),
            KFormat::Q3K | KFormat::Q6K => small(16),
            KFormat::Iq4Xs => small(8),
            KFormat::Iq4Nl => Vec::new(),
        };
        let is_signed = matches!(k, KFormat::Q3K | KFormat::Q6K | KFormat::Iq4Xs);
        let sign = |byte: u8, negative: bool| if is_signed && negative { byte.wrapping_neg() } else { byte };
        tensor.scales.extend(header.into_iter().map(|byte| sign(byte, random.below(2) == 1)));
        push(&mut tensor.scales, ScaleType::F16, false, power, random.below(4));
        match k {
            KFormat::Iq4Nl => {}
            KFormat::Q2K | KFormat::Q4K | KFormat::Q5K => {
                push(&mut tensor.scales, ScaleType::F16, false, power + k.bits() as i32 - 1, random.below(4));
            }
            _ => tensor.scales.extend([0; 2]),
        }
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
