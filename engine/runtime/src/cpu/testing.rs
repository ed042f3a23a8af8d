//! What the kernels' tests share: random weights of every format and comparison with f64.

use super::weight::{FloatType, Format, Segment, SmallFloat};
use half::{bf16, f16};
use ingot_ir::weight::KFormat;

/// A small generator (splitmix64), so that a failure can be repeated.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Nearly normal: the sum of four uniforms.
    pub(crate) fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: f32 = (0..4).map(|i| ((bits >> (16 * i)) & 0xffff) as f32 / 65_536.0 - 0.5).sum();
        sum * 1.7
    }

    pub(crate) fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Floats of every type; affine of every width, group and scale type, not all combined.
pub(crate) fn all_formats() -> Vec<Format> {
    use FloatType::{Bf16, F16, F32};
    let mut formats: Vec<Format> = [F32, F16, Bf16].into_iter().map(Format::Float).collect();
    for (bits, group, scale) in [
        (1, 32, F32),
        (2, 64, F16),
        (3, 32, Bf16),
        (4, 32, F16),
        (4, 64, Bf16),
        (4, 128, F32),
        (5, 64, F32),
        (6, 128, F16),
        (8, 32, Bf16),
        (8, 64, F16),
        (8, 128, F32),
    ] {
        formats.push(Format::Affine { bits, group, scale });
    }
    formats.extend([SmallFloat::Mxfp4, SmallFloat::Mxfp8, SmallFloat::Nvfp4].map(Format::SmallFloat));
    formats.extend(KFormat::ALL.map(Format::K));
    formats
}

/// Affine formats of every width and group, scale types in turn.
pub(crate) fn affine_formats() -> Vec<Format> {
    let scales = [FloatType::Bf16, FloatType::F16, FloatType::F32];
    let each = |(ix, bits): (usize, u32)| {
        [32, 64, 128].into_iter().enumerate().map(move |(at, group)| {
            let scale = scales[(ix + at) % scales.len()];
            Format::Affine { bits, group, scale }
        })
    };
    [1, 2, 3, 4, 5, 6, 8].into_iter().enumerate().flat_map(each).collect()
}

/// A random segment and what it decodes to.
pub(crate) struct TestWeight {
    pub(crate) format: Format,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    factors: Vec<u8>,
}

fn push(bytes: &mut Vec<u8>, float: FloatType, value: f32) {
    match float {
        FloatType::F32 => bytes.extend(value.to_le_bytes()),
        FloatType::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
        FloatType::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
    }
}

/// The number of a sign, `exponent` and `fraction` bits.
fn float_of(code: u8, exponent: u32, fraction: u32, bias: i32) -> f64 {
    let sign = if code >> (exponent + fraction) & 1 == 1 { -1.0 } else { 1.0 };
    let power = i32::from(code >> fraction & ((1 << exponent) - 1));
    let part = f64::from(code & ((1 << fraction) - 1)) / f64::from(1u32 << fraction);
    sign * if power == 0 { part * 2f64.powi(1 - bias) } else { (1.0 + part) * 2f64.powi(power - bias) }
}

impl TestWeight {
    pub(crate) fn new(random: &mut Random, format: Format, n_rows: usize, n_cols: usize) -> Self {
        let (mut codes, mut scales, mut biases, mut factors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        match format {
            Format::Float(float) => (0..n_rows * n_cols).for_each(|_| push(&mut codes, float, random.normal())),
            Format::Affine { bits, scale, .. } => {
                codes.extend((0..n_rows * format.row_bytes(n_cols)).map(|_| random.next() as u8));
                for _ in 0..n_rows * format.n_groups(n_cols) {
                    // As a quantizer makes them: the middle code (of two, the middle between them) is near 0, the scale
                    // may be negative.
                    let middle = if bits == 1 { 0.5 } else { f32::from(1u16 << (bits - 1)) };
                    let step = (random.normal() + 2.5) / middle;
                    let step = if random.below(2) == 0 { step } else { -step };
                    push(&mut scales, scale, step);
                    push(&mut biases, scale, -step * middle + 0.1 * random.normal());
                }
            }
            Format::SmallFloat(_) | Format::K(_) => {}
        }
        if let Format::SmallFloat(small) = format {
            // Every code but e4m3's NaN; scales near 1, and one of the smallest.
            let code = |random: &mut Random| match random.next() as u8 {
                0x7f | 0xff => 0x7e,
                byte => byte,
            };
            codes.extend((0..n_rows * format.row_bytes(n_cols)).map(|_| code(random)));
            let one = if small == SmallFloat::Nvfp4 { 0x38 } else { 127 };
            scales.extend((0..n_rows * format.n_groups(n_cols)).map(|_| one - 4 + random.below(8) as u8));
            scales[0] = random.below(2) as u8;
            if small == SmallFloat::Nvfp4 && n_cols > 64 {
                // One for each row.
                (0..n_rows).for_each(|_| push(&mut factors, FloatType::F32, 2688.0 * (1.5 + random.normal().abs())));
            }
        }
        if let Format::K(k) = format {
            codes.extend((0..n_rows * format.row_bytes(n_cols)).map(|_| random.next() as u8));
            for _ in 0..n_rows * n_cols / k.block() as usize {
                let n_bytes = k.header_bytes() as usize;
                let n_units = if k == KFormat::Iq4Nl { 2 } else { 4 };
                scales.extend((0..n_bytes - n_units).map(|_| random.next() as u8));
                (0..n_units / 2).for_each(|_| push(&mut scales, FloatType::F16, 0.01 * random.normal()));
            }
        }
        Self { format, n_rows, n_cols, codes, scales, biases, factors }
    }

    pub(crate) fn segment(&self) -> Segment<'_> {
        Segment {
            n_rows: self.n_rows,
            format: self.format,
            codes: &self.codes,
            scales: &self.scales,
            biases: &self.biases,
            factors: &self.factors,
        }
    }

    /// The same with every byte of the codes set.
    pub(crate) fn with_codes(mut self, byte: u8) -> Self {
        self.codes.fill(byte);
        self
    }

    pub(crate) fn value(&self, row: usize, col: usize) -> f64 {
        match self.format {
            Format::Float(float) => f64::from(float.read(&self.codes, row * self.n_cols + col)),
            Format::Affine { bits, group, scale } => {
                let stream = &self.codes[row * self.format.row_bytes(self.n_cols)..];
                let code = (0..bits as usize).fold(0u32, |code, b| {
                    let bit = col * bits as usize + b;
                    code | u32::from(stream[bit / 8] >> (bit % 8) & 1) << b
                });
                let at = row * self.format.n_groups(self.n_cols) + col / group;
                let (scale, bias) = (scale.read(&self.scales, at), scale.read(&self.biases, at));
                f64::from(code) * f64::from(scale) + f64::from(bias)
            }
            Format::K(k) => {
                let (bits, group, block) = (k.bits() as usize, k.group() as usize, k.block() as usize);
                let stream = &self.codes[row * self.format.row_bytes(self.n_cols)..];
                let code = (0..bits).fold(0u32, |code, b| {
                    let bit = col * bits + b;
                    code | u32::from(stream[bit / 8] >> (bit % 8) & 1) << b
                });
                let n_bytes = k.header_bytes() as usize;
                let header = &self.scales[(row * self.n_cols + col) / block * n_bytes..][..n_bytes];
                let at = col % block / group;
                let unit = |ix: usize| f64::from(FloatType::F16.read(header, ix));
                let table = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
                let (code, signed) = (f64::from(code), f64::from(header[at.min(n_bytes - 1)] as i8));
                match k {
                    KFormat::Q2K => unit(8) * f64::from(header[at] % 16) * code - unit(9) * f64::from(header[at] / 16),
                    KFormat::Q4K | KFormat::Q5K => {
                        unit(8) * f64::from(header[at]) * code - unit(9) * f64::from(header[8 + at])
                    }
                    KFormat::Q3K => unit(8) * signed * (code - 4.0),
                    KFormat::Q6K => unit(8) * signed * (code - 32.0),
                    KFormat::Iq4Xs => unit(4) * signed * f64::from(table[code as usize]),
                    KFormat::Iq4Nl => unit(0) * f64::from(table[code as usize]),
                }
            }
            Format::SmallFloat(small) => {
                let n_groups = self.format.n_groups(self.n_cols);
                let scale = self.scales[row * n_groups + col / small.group()];
                let scale = match small {
                    SmallFloat::Nvfp4 => float_of(scale, 4, 3, 7),
                    _ => 2f64.powi(i32::from(scale) - 127),
                };
                let stream = &self.codes[row * self.format.row_bytes(self.n_cols)..];
                let code = match small.bits() {
                    4 => float_of(stream[col / 2] >> (4 * (col % 2)) & 15, 2, 1, 1),
                    _ => float_of(stream[col], 4, 3, 7),
                };
                let global = if self.factors.is_empty() { 2688.0 } else { FloatType::F32.read(&self.factors, row) };
                code * scale * f64::from(global / 2688.0)
            }
        }
    }

    pub(crate) fn dot(&self, row: usize, x: &[f32]) -> f64 {
        x.iter().enumerate().map(|(col, &x)| self.value(row, col) * f64::from(x)).sum()
    }

    /// All values in f64, row-major.
    pub(crate) fn dense(&self) -> Vec<f64> {
        (0..self.n_rows * self.n_cols).map(|i| self.value(i / self.n_cols, i % self.n_cols)).collect()
    }
}

/// Asserts a relative L2 distance of at most `tolerance`.
pub(crate) fn assert_close(found: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), want.len(), "{what}");
    let distance: f64 = found.iter().zip(want).map(|(&f, &w)| (f64::from(f) - w).powi(2)).sum();
    let norm: f64 = want.iter().map(|w| w * w).sum();
    let error = (distance / norm.max(1e-20)).sqrt();
    assert!(error <= tolerance, "{what}: relative error {error:e}");
}
