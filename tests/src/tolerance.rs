//! Every tolerance of the tests, once, with its reason. Errors are relative L2: `|found - expected| / |expected|`.

use ingot_compiler::TargetProfile;
use ingot_ir::graph::Graph;
use ingot_ir::kv::KvType;
use ingot_runtime::sample::{Random, Sampling, gumbel};

/// Logits on the CPU against the reference. Both compute in f32; sums of a few thousand products taken in another order
/// differ by some 1e-6 a layer, and a rotation at a late position by a few ulps of its angle.
pub const CPU_LOGITS: f64 = 1e-4;

/// Logits on the CPU with activations rounded to 8 bits. Half a step is 1/254 of the largest of 32 values, so a product
/// is off by some 0.6 % of its size, and two layers of products in a row add up to a few per cent: 3.2 % at worst over the
/// fixtures, with AVX2.
pub const INT8_LOGITS: f64 = 5e-2;

/// Logits on the GPU. Keys and values are f16 (2^-11 an entry), and a device with f16 multiplies matrices in it.
pub const GPU_LOGITS: f64 = 5e-3;

/// Logits with keys and values in codes of 8 bits. Half a step is 1/510 of a group's range, which is some 4 standard
/// deviations: an entry is off by 0.5 % of its size, and two layers add up to 1.1 % at worst over the fixtures.
pub const KV8_LOGITS: f64 = 3e-2;

/// The same with codes of 4 bits, whose steps are 17 times as large: 21 % at worst over the fixtures.
pub const KV4_LOGITS: f64 = 0.3;

/// SmolLM2-135M's best five log-probabilities on the CPU, absolute: 30 layers of f32 arithmetic on bf16 weights.
pub const SMOLLM2_CPU_LOGPROB: f64 = 2e-3;

/// The same on the GPU, absolute: KV and products in f16.
pub const SMOLLM2_GPU_LOGPROB: f64 = 0.05;

/// Draws on a GPU against the processor's.
pub mod draw {
    /// Of a number that a token is drawn by, `logit / temperature + noise`, absolute. WGSL allows `log` an error of 2^-21 near
    /// 1 and of 3 ulps elsewhere, and noise is a logarithm of a logarithm, the inner one at least 0.06: 2^-21 / 0.06 + 3 ulps
    /// of up to 22, some 1.5e-5. Ids whose numbers are closer are equally good.
    pub const NOISE: f32 = 2e-5;

    /// Of the same, relative to the logit over the temperature: two roundings of a product and a sum, of either side.
    pub const TEMPERED: f32 = 4.0 * f32::EPSILON;

    /// Of a log-probability, absolute up to 1 and relative beyond: sums of up to a quarter of a million numbers in f32.
    pub const LOGPROB: f32 = 2e-5;
}

/// Whether a GPU's id and its logit are as good a choice as the processor's, but for rounding. Decisions of filters are not
/// judged: tests keep them further from their thresholds than sums of masses err (1e-6 of the mass).
pub fn is_as_good(sampling: &Sampling, position: u32, found: (u32, f32), expected: (u32, f32)) -> bool {
    if sampling.temperature == 0.0 {
        return found.0 == expected.0 || (found.1 - expected.1).abs() <= draw::TEMPERED * expected.1.abs();
    }
    let noise = Random::at(sampling.seed, position).noise;
    let number = |(id, logit): (u32, f32)| logit / sampling.temperature + gumbel(noise, id);
    let allowed = draw::NOISE + draw::TEMPERED * (expected.1 / sampling.temperature).abs();
    found.0 == expected.0 || number(found) >= number(expected) - allowed
}

/// The sampler's numbers against mlx-lm's, absolute: the fixture says so itself.
pub const SAMPLER: f32 = 5e-5;

/// Arithmetic of a kernel's products.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arithmetic {
    /// Single precision throughout.
    F32,
    /// Inputs rounded to half precision, sums in single precision.
    F16Inputs,
    /// Inputs rounded to 8 bits in blocks of 32, sums in whole numbers and single precision.
    Int8Inputs,
}

impl Arithmetic {
    /// Of a graph's matrix products on a target.
    pub fn of(target: &TargetProfile, graph: &Graph) -> Self {
        let mut weights = graph.weights.as_slice().iter();
        if weights.any(|weight| target.multiplies_bytes(weight.format, weight.n_cols)) {
            return Self::Int8Inputs;
        }
        let is_half = graph.weights.as_slice().iter().any(|weight| {
            let units = target.matrix_units(weight.format, weight.n_cols);
            target.multiplies_half(weight.format, weight.n_cols) || units.is_some()
        });
        if is_half { Self::F16Inputs } else { Self::F32 }
    }
}

/// Of a kernel that sums `k` products, against the interpreter, which sums in f64. Rounding errors of a sum grow like
/// a random walk, sqrt(k); the factor 8 leaves room for unlucky orders and for approximate `exp` and `inverseSqrt`.
pub fn kernel(arithmetic: Arithmetic, k: u32) -> f64 {
    let epsilon = match arithmetic {
        Arithmetic::F32 => f64::from(f32::EPSILON),
        Arithmetic::F16Inputs => 1.0 / 2048.0,
        // Half a step, of the largest of a block.
        Arithmetic::Int8Inputs => 1.0 / 254.0,
    };
    // Rounded inputs err once each, whatever the length: their errors average out relative to the sum.
    let growth = match arithmetic {
        Arithmetic::F32 => f64::from(k.max(1)).sqrt(),
        Arithmetic::F16Inputs | Arithmetic::Int8Inputs => 1.0,
    };
    8.0 * epsilon * growth.max(1.0)
}

/// Of attention over `kv_len` entries of the given type: stored entries are rounded once.
pub fn attention(kv: KvType, kv_len: u32) -> f64 {
    match kv {
        KvType::F32 => kernel(Arithmetic::F32, kv_len.max(64)),
        KvType::F16 => kernel(Arithmetic::F16Inputs, kv_len),
        // The interpreter keeps the same codes, but a number between two of them may round to the other one, and the code of a
        // group's end, by which the steps of all its numbers are set, may too. A group spans some 4 standard deviations of its numbers,
        // so a step is 4 * 2^-bits of them; with other steps numbers are off by 0.4 steps (the root of 2 / 12), which of a
        // single entry is 1.7 * 2^-bits of its size. Over n entries errors and values average out alike, with the root of n, so that
        // the length takes nothing off: what is left is the root of the share of numbers that round otherwise. Normal numbers
        // with and without errors of 2^-11 came out 0.2 to 2.2 * 2^-bits apart, wherever from 1 to 1024 entries.
        KvType::Affine { bits, .. } => kernel(Arithmetic::F16Inputs, kv_len) + 2.5 * f64::from(bits).exp2().recip(),
    }
}

/// `|found - expected| / |expected|`, in f64. Infinite if a number is not finite, the lengths differ, or something was
/// found where zero was expected.
pub fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() || found.iter().any(|number| !number.is_finite()) {
        return f64::INFINITY;
    }
    let (mut error, mut size) = (0.0, 0.0);
    for (&found, &expected) in found.iter().zip(expected) {
        error += (f64::from(found) - f64::from(expected)).powi(2);
        size += f64::from(expected).powi(2);
    }
    match (error == 0.0, size == 0.0) {
        (true, _) => 0.0,
        (false, true) => f64::INFINITY,
        (false, false) => (error / size).sqrt(),
    }
}
