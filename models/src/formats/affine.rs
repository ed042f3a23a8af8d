//! MLX's affine quantization: `w = code * scale + bias`, one scale and bias for `group` consecutive columns.
//!
//! A row's codes are a little-endian bit stream: element `i` is stream bits `i*bits .. (i+1)*bits`. Rows begin on 32-bit
//! words, so a group of 32 always begins on a word too.

use ingot_ir::weight::ScaleType;

/// Group sizes that the format allows.
pub const GROUPS: [u32; 3] = [32, 64, 128];
/// Widths of a code that the format allows.
pub const BITS: [u32; 7] = [1, 2, 3, 4, 5, 6, 8];

/// Width and group of a quantized matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuantShape {
    /// Bits a code, one of [`BITS`].
    pub bits: u32,
    /// Columns a group, one of [`GROUPS`].
    pub group: u32,
}

impl QuantShape {
    /// Infers width and group from the shapes in the file, which (unlike the configuration) are always right:
    /// `n_cols` logical columns, `n_words` 32-bit words and `n_groups` scales a row.
    ///
    /// # Errors
    /// What does not fit, with the numbers.
    pub fn infer(n_cols: usize, n_words: usize, n_groups: usize) -> Result<Self, String> {
        let group = if n_groups == 0 || !n_cols.is_multiple_of(n_groups) { 0 } else { n_cols / n_groups };
        let group = GROUPS.into_iter().find(|&g| g as usize == group).ok_or_else(|| {
            format!("{n_groups} scales a row do not divide {n_cols} columns into groups of 32, 64 or 128")
        })?;
        let bits = BITS.into_iter().find(|&bits| Some(n_words as u64 * 32) == (n_cols as u64).checked_mul(bits.into()));
        let bits = bits
            .ok_or_else(|| format!("{n_words} words a row do not hold {n_cols} codes of 1, 2, 3, 4, 5, 6 or 8 bits"))?;
        Ok(Self { bits, group })
    }
    /// Bytes of a row's codes.
    pub fn code_row_bytes(self, n_cols: usize) -> usize {
        n_cols * self.bits as usize / 8
    }
}

/// A quantized matrix as it lies in a file. The slices need not be aligned.
#[derive(Clone, Copy, Debug)]
pub struct AffineView<'a> {
    /// Width and group.
    pub shape: QuantShape,
    /// Type of `scales` and `biases`.
    pub scale_type: ScaleType,
    /// Rows.
    pub n_rows: usize,
    /// Logical columns, a multiple of the group.
    pub n_cols: usize,
    /// `n_rows * n_cols * bits / 8` bytes.
    pub codes: &'a [u8],
    /// `n_rows * n_cols / group` scales, row-major.
    pub scales: &'a [u8],
    /// As `scales`.
    pub biases: &'a [u8],
}

impl AffineView<'_> {
    /// Widens one row to f32.
    ///
    /// # Panics
    /// If `row` is not a row or `out` does not have `n_cols` elements.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of a matrix with {} rows", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "a row has n_cols elements");
        let (bits, group) = (self.shape.bits, self.shape.group as usize);
        let row_bytes = self.shape.code_row_bytes(self.n_cols);
        let codes = &self.codes[row * row_bytes..][..row_bytes];
        let n_groups = self.n_cols / group;
        let groups = codes.chunks_exact(self.shape.code_row_bytes(group));
        for ((g, out), codes) in out.chunks_exact_mut(group).enumerate().zip(groups) {
            let scale = scale_at(self.scale_type, self.scales, row * n_groups + g);
            let bias = scale_at(self.scale_type, self.biases, row * n_groups + g);
            let eights = out.as_chunks_mut::<8>().0.iter_mut().zip(codes.chunks_exact(bits as usize));
            for (out, codes) in eights {
                *out = eight_codes(codes).map(|code| f32::from(code) * scale + bias);
            }
        }
    }

    /// Widens the whole matrix, row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n_rows * self.n_cols];
        if self.n_cols > 0 {
            out.chunks_exact_mut(self.n_cols).enumerate().for_each(|(row, out)| self.dequantize_row(row, out));
        }
        out
    }
}

/// The eight codes of so many bytes as a code has bits.
///
/// # Panics
/// If there are more than 8 bytes.
pub(crate) fn eight_codes(bytes: &[u8]) -> [u8; 8] {
    // With the width known, a few shifts each.
    fn of<const BITS: usize>(bytes: &[u8]) -> [u8; 8] {
        let mut word = [0; 8];
        word[..BITS].copy_from_slice(&bytes[..BITS]);
        let word = u64::from_le_bytes(word);
        std::array::from_fn(|ix| (word >> (ix * BITS)) as u8 & (u8::MAX >> (8 - BITS)))
    }
    match bytes.len() {
        1 => of::<1>(bytes),
        2 => of::<2>(bytes),
        3 => of::<3>(bytes),
        4 => of::<4>(bytes),
        5 => of::<5>(bytes),
        6 => of::<6>(bytes),
        7 => of::<7>(bytes),
        8 => of::<8>(bytes),
        n => panic!("{n} bytes are no eight codes"),
    }
}

pub(crate) fn scale_at(scale_type: ScaleType, bytes: &[u8], ix: usize) -> f32 {
    let two = || [bytes[2 * ix], bytes[2 * ix + 1]];
    match scale_type {
        ScaleType::F16 => half::f16::from_le_bytes(two()).to_f32(),
        ScaleType::Bf16 => half::bf16::from_le_bytes(two()).to_f32(),
        ScaleType::F32 => f32::from_le_bytes([bytes[4 * ix], bytes[4 * ix + 1], bytes[4 * ix + 2], bytes[4 * ix + 3]]),
    }
}

/// A quantized matrix of our own making.
#[derive(Clone, PartialEq, Debug)]
pub struct AffineMatrix {
    /// Width and group.
    pub shape: QuantShape,
    /// Type of `scales` and `biases`.
    pub scale_type: ScaleType,
    /// Rows.
    pub n_rows: usize,
    /// Logical columns.
    pub n_cols: usize,
    /// See [`AffineView::codes`].
    pub codes: Vec<u8>,
    /// See [`AffineView::scales`].
    pub scales: Vec<u8>,
    /// See [`AffineView::biases`].
    pub biases: Vec<u8>,
}

impl AffineMatrix {
    /// Quantizes as MLX does on the CPU, in f32: the edge of larger magnitude is kept exactly, and zero is often exact.
    ///
    /// # Panics
    /// If `values` is not `[n_rows, n_cols]`, or `n_cols` is no multiple of the group.
    pub fn quantize(values: &[f32], n_rows: usize, n_cols: usize, shape: QuantShape, scale_type: ScaleType) -> Self {
        assert!(BITS.contains(&shape.bits) && GROUPS.contains(&shape.group), "{shape:?} is not an affine format");
        assert_eq!(values.len(), n_rows * n_cols, "values are [n_rows, n_cols]");
        let group = shape.group as usize;
        assert_eq!(n_cols % group, 0, "columns are whole groups");
        let row_bytes = shape.code_row_bytes(n_cols);
        let mut out = Self {
            shape,
            scale_type,
            n_rows,
            n_cols,
            codes: vec![0; n_rows * row_bytes],
            scales: Vec::new(),
            biases: Vec::new(),
        };
        for (ix, values) in values.chunks_exact(group).enumerate() {
            let (scale, bias) = scale_and_bias(values, shape.bits);
            push_scale(scale_type, &mut out.scales, scale);
            push_scale(scale_type, &mut out.biases, bias);
            // A group of 32 is a whole number of words, so the stream of all groups is the stream of all rows.
            let group_bytes = shape.code_row_bytes(group);
            let codes = &mut out.codes[ix * group_bytes..][..group_bytes];
            let max = ((1u32 << shape.bits) - 1) as f32;
            let bits = shape.bits as usize;
            let eights = values.as_chunks::<8>().0.iter().zip(codes.chunks_exact_mut(bits));
            for (values, codes) in eights {
                let mut eight = [0u32; 8];
                for (code, value) in eight.iter_mut().zip(values) {
                    // Above 2^23 floats are whole numbers, so the sum is rounded to one, ties to even.
                    let in_range = ((value - bias) / scale).max(0.0).min(max);
                    *code = (in_range + 8_388_608.0).to_bits() & 0xff;
                }
                let word = eight.iter().rev().fold(0u64, |word, code| word << bits | u64::from(*code));
                codes.copy_from_slice(&word.to_le_bytes()[..bits]);
            }
        }
        out
    }

    /// The matrix as a file would give it.
    pub fn view(&self) -> AffineView<'_> {
        AffineView {
            shape: self.shape,
            scale_type: self.scale_type,
            n_rows: self.n_rows,
            n_cols: self.n_cols,
            codes: &self.codes,
            scales: &self.scales,
            biases: &self.biases,
        }
    }
}

fn scale_and_bias(values: &[f32], bits: u32) -> (f32, f32) {
    const SMALLEST: f32 = 1e-7;
    let (mut los, mut his) = ([f32::INFINITY; 8], [f32::NEG_INFINITY; 8]);
    for values in values.as_chunks::<8>().0 {
        for ((lo, hi), value) in los.iter_mut().zip(&mut his).zip(values) {
            *lo = if *value < *lo { *value } else { *lo };
            *hi = if *value > *hi { *value } else { *hi };
        }
    }
    let lo = los.into_iter().fold(f32::INFINITY, f32::min);
    let hi = his.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if bits == 1 {
        return ((hi - lo).max(SMALLEST), lo);
    }
    let scale = ((hi - lo) / ((1u32 << bits) - 1) as f32).max(SMALLEST);
    let (scale, edge) = if lo.abs() > hi.abs() { (scale, lo) } else { (-scale, hi) };
    let steps = (edge / scale).round_ties_even();
    if steps == 0.0 { (scale, 0.0) } else { (edge / steps, edge) }
}

pub(crate) fn push_scale(scale_type: ScaleType, out: &mut Vec<u8>, value: f32) {
    match scale_type {
        ScaleType::F16 => out.extend_from_slice(&half::f16::from_f32(value).to_le_bytes()),
        ScaleType::Bf16 => out.extend_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
        ScaleType::F32 => out.extend_from_slice(&value.to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(values: &[f32], bits: u32) -> (Vec<u32>, f32, f32) {
        let shape = QuantShape { bits, group: 32 };
        let matrix = AffineMatrix::quantize(values, 1, 32, shape, ScaleType::F32);
        let words = matrix.codes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        (words, scale_at(ScaleType::F32, &matrix.scales, 0), scale_at(ScaleType::F32, &matrix.biases, 0))
    }

    #[test]
    fn quantizer_gives_mlx_words() {
        let row: Vec<f32> = (0..32).map(|i| (i - 13) as f32 / 8.0).collect();
        let golden: [(u32, &[u32], f32, f32); 7] = [
            (2, &[0xaaabffff, 0x0015555a], -1.125, 2.25),
            (3, &[0x6dbb6dbf, 0x26db9249, 0x00124a49], -0.5625, 2.25),
            (4, &[0xccdeeeff, 0x889aaabc, 0x44566678, 0x00122234], -0.25, 2.25),
            (5, &[0x75be77df, 0x3a56d7c6, 0x35cf8465, 0xc74254b6, 0x00443214], -0.125, 2.25),
            (6, &[0x78ebcfbf, 0xbb6fc73d, 0x863967a6, 0x5765b75f, 0xa30e4125, 0x00210620], -0.060_810_81, 2.25),
            (
                8,
                &[0xe6eef7ff, 0xc5ced6de, 0xa4adb5bd, 0x848c949c, 0x636b737b, 0x424a525a, 0x2129313a, 0x00081019],
                -0.015_202_703,
                2.25,
            ),
            (1, &[0xffff0000], 3.875, -1.625),
        ];
        for (bits, words, scale, bias) in golden {
            assert_eq!(quantized(&row, bits), (words.to_vec(), scale, bias), "{bits} bits");
        }
    }

    #[test]
    fn quantizer_keeps_one_sided_and_constant_groups() {
        let negative: Vec<f32> = (0..32).map(|i| -(i + 1) as f32 / 4.0).collect();
        let words = vec![0xbccddeef, 0x78899aab, 0x44556677, 0x00112233];
        assert_eq!(quantized(&negative, 4), (words, 0.533_333_36, -8.0));
        // A constant group: the step of -1e-7 takes 3 million steps to the value, so the value is the bias.
        assert_eq!(quantized(&[0.3; 32], 4), (vec![0; 4], -1e-7, 0.3));
        assert_eq!(quantized(&[0.0; 32], 4).2, 0.0);
    }

    #[test]
    fn every_width_survives_the_way_back() {
        for bits in BITS {
            for group in GROUPS {
                let n_cols = 256;
                let max = (1u32 << bits) - 1;
                // Each group holds 0 and the largest code, so that its scale is 1 and nothing is rounded.
                let code = |i: u32| match i % group {
                    0 => 0,
                    1 => max,
                    _ => i * 7 % (max + 1),
                };
                let values: Vec<f32> = (0..3 * n_cols as u32).map(|i| code(i) as f32).collect();
                let shape = QuantShape { bits, group };
                for scale_type in [ScaleType::F16, ScaleType::Bf16, ScaleType::F32] {
                    let matrix = AffineMatrix::quantize(&values, 3, n_cols, shape, scale_type);
                    assert_eq!(matrix.view().dequantize(), values, "{bits} bits, group {group}, {scale_type:?}");
                }
            }
        }
    }

    #[test]
    fn shapes_tell_width_and_group() {
        assert_eq!(QuantShape::infer(256, 48, 4), Ok(QuantShape { bits: 6, group: 64 }));
        assert!(QuantShape::infer(256, 48, 3).unwrap_err().contains("3 scales a row"));
        assert!(QuantShape::infer(256, 56, 4).unwrap_err().contains("56 words"));
        assert!(QuantShape::infer(0, 0, 0).is_err());
    }
}
