//! MLX's modes mxfp4, mxfp8 and nvfp4: codes and scales are small floats, `w = code * scale`.
//!
//! Codes are e2m1 (4 bits, low nibble first) or e4m3 (8 bits); scales are a byte each: e8m0, a power of two, or e4m3.
//! nvfp4 may have a global scale `g` besides, an f32: scales are then worth `scale * g / (448 * 6)`.
//! Formats: OCP Microscaling Formats (MX) Specification 1.0; values as in MLX 0.32.

use ingot_ir::weight::Format;

/// One of the modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SmallFloat {
    /// e2m1 codes, an e8m0 scale for 32 columns.
    Mxfp4,
    /// e4m3 codes, an e8m0 scale for 32 columns.
    Mxfp8,
    /// e2m1 codes, an e4m3 scale for 16 columns.
    Nvfp4,
}

/// The largest e2m1 number.
const E2M1_MAX: f32 = 6.0;
/// The largest e4m3 number.
const E4M3_MAX: f32 = 448.0;

impl SmallFloat {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Mxfp4, Self::Mxfp8, Self::Nvfp4];

    /// MLX's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 => "nvfp4",
        }
    }
    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
    /// Columns a scale.
    pub fn group(self) -> u32 {
        match self {
            Self::Mxfp4 | Self::Mxfp8 => 32,
            Self::Nvfp4 => 16,
        }
    }
    /// Bits a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Mxfp4 | Self::Nvfp4 => 4,
            Self::Mxfp8 => 8,
        }
    }
    /// The mode of a matrix with scales of U8: `n_cols` logical columns, `n_words` 32-bit words and `n_groups` scales a row.
    ///
    /// # Errors
    /// What does not fit, with the numbers.
    pub fn infer(n_cols: usize, n_words: usize, n_groups: usize) -> Result<Self, String> {
        let fits = |mode: &Self| {
            n_cols > 0
                && n_cols.is_multiple_of(mode.group() as usize)
                && n_groups == n_cols / mode.group() as usize
                && n_words as u64 * 32 == n_cols as u64 * u64::from(mode.bits())
        };
        Self::ALL.into_iter().find(fits).ok_or_else(|| {
            format!(
                "{n_words} words and {n_groups} scales of U8 a row are neither mxfp4, mxfp8 nor nvfp4 of {n_cols} columns"
            )
        })
    }
    /// The number of a scale.
    pub fn scale(self, byte: u8) -> f32 {
        match self {
            Self::Mxfp4 | Self::Mxfp8 => e8m0(byte),
            Self::Nvfp4 => e4m3(byte),
        }
    }
}

/// The number of a code of 4 bits.
pub fn e2m1(code: u8) -> f32 {
    const SIZES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let size = SIZES[usize::from(code & 7)];
    if code & 8 == 0 { size } else { -size }
}

/// The number of a byte of sign, four bits of exponent and three of fraction. The code of NaN is 480 like its neighbours.
pub fn e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = match exponent {
        0 => fraction / 512.0,
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { size } else { -size }
}

/// The power of two of a byte.
pub fn e8m0(byte: u8) -> f32 {
    2f32.powi(i32::from(byte) - 127)
}

/// A quantized matrix as it lies in a file. The slices need not be aligned.
#[derive(Clone, Copy, Debug)]
pub struct SmallFloatView<'a> {
    /// The mode.
    pub mode: SmallFloat,
    /// Rows.
    pub n_rows: usize,
    /// Logical columns, a multiple of the group.
    pub n_cols: usize,
    /// `n_rows * n_cols * bits / 8` bytes.
    pub codes: &'a [u8],
    /// `n_rows * n_cols / group` bytes, row-major.
    pub scales: &'a [u8],
    /// The global scale: one f32, or one for each equal part of the rows; `None` if there is none.
    pub global: Option<&'a [u8]>,
}

impl SmallFloatView<'_> {
    /// The format in the words of the IR.
    pub fn format(&self) -> Format {
        match self.mode {
            SmallFloat::Mxfp4 => Format::Mxfp4,
            SmallFloat::Mxfp8 => Format::Mxfp8,
            SmallFloat::Nvfp4 => Format::Nvfp4 { global: self.global.is_some() },
        }
    }

    /// Widens one row to f32.
    ///
    /// # Panics
    /// If `row` is not a row or `out` does not have `n_cols` elements.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of a matrix with {} rows", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "a row has n_cols elements");
        let (group, bits) = (self.mode.group() as usize, self.mode.bits() as usize);
        let codes = &self.codes[row * self.n_cols * bits / 8..][..self.n_cols * bits / 8];
        let n_groups = self.n_cols / group;
        let factor = self.factor(row);
        for (g, out) in out.chunks_exact_mut(group).enumerate() {
            let scale = self.mode.scale(self.scales[row * n_groups + g]) * factor;
            for (i, out) in out.iter_mut().enumerate() {
                let at = g * group + i;
                let number = if bits == 8 { e4m3(codes[at]) } else { e2m1(codes[at / 2] >> (4 * (at % 2))) };
                *out = number * scale;
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

    fn factor(&self, row: usize) -> f32 {
        let Some(global) = self.global else { return 1.0 };
        let at = row / (self.n_rows / (global.len() / 4));
        let bytes = &global[4 * at..][..4];
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) / (E4M3_MAX * E2M1_MAX)
    }
}

/// A quantized matrix of our own making.
#[derive(Clone, PartialEq, Debug)]
pub struct SmallFloatMatrix {
    /// The mode.
    pub mode: SmallFloat,
    /// Rows.
    pub n_rows: usize,
    /// Logical columns.
    pub n_cols: usize,
    /// See [`SmallFloatView::codes`].
    pub codes: Vec<u8>,
    /// See [`SmallFloatView::scales`].
    pub scales: Vec<u8>,
}

impl SmallFloatMatrix {
    /// Quantizes as MLX does on the CPU, without a global scale. A power of two is the least that no number exceeds,
    /// and 1 for a group of zeros; an e4m3 scale is the nearest to the largest number's sixth.
    ///
    /// # Panics
    /// If `values` is not `[n_rows, n_cols]`, or `n_cols` is no multiple of the group.
    pub fn quantize(values: &[f32], n_rows: usize, n_cols: usize, mode: SmallFloat) -> Self {
        let (group, bits) = (mode.group() as usize, mode.bits() as usize);
        assert_eq!(values.len(), n_rows * n_cols, "values are [n_rows, n_cols]");
        assert_eq!(n_cols % group, 0, "columns are whole groups");
        let mut codes = vec![0; values.len() * bits / 8];
        let mut scales = Vec::with_capacity(values.len() / group);
        for (values, codes) in values.chunks_exact(group).zip(codes.chunks_exact_mut(group * bits / 8)) {
            let largest = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let byte = match mode {
                SmallFloat::Mxfp4 => to_e8m0(largest / E2M1_MAX),
                SmallFloat::Mxfp8 => to_e8m0(largest / E4M3_MAX),
                SmallFloat::Nvfp4 => to_e4m3(largest / E2M1_MAX),
            };
            scales.push(byte);
            let scale = mode.scale(byte);
            let divisor = if scale == 0.0 { f32::INFINITY } else { scale };
            match bits {
                8 => values.iter().zip(codes).for_each(|(value, code)| *code = to_e4m3(value / divisor)),
                _ => {
                    for ([low, high], code) in values.as_chunks::<2>().0.iter().zip(codes) {
                        *code = to_e2m1(low / divisor) | to_e2m1(high / divisor) << 4;
                    }
                }
            }
        }
        Self { mode, n_rows, n_cols, codes, scales }
    }

    /// The matrix as a file would give it.
    pub fn view(&self) -> SmallFloatView<'_> {
        let Self { mode, n_rows, n_cols, codes, scales } = self;
        SmallFloatView { mode: *mode, n_rows: *n_rows, n_cols: *n_cols, codes, scales, global: None }
    }
}

/// The least power of two that is not below `value`; 1 for zero.
fn to_e8m0(value: f32) -> u8 {
    if value == 0.0 {
        return 127;
    }
    (value.log2().ceil() + 127.0).clamp(0.0, 254.0) as u8
}

/// The nearest e2m1 number, of two the smaller one.
fn to_e2m1(value: f32) -> u8 {
    // Where the next larger code begins.
    const BOUNDS: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let size = value.abs();
    let code = BOUNDS.iter().fold(0, |code, bound| code + u8::from(size > *bound));
    code | if value < 0.0 && code > 0 { 8 } else { 0 }
}

/// The nearest e4m3 number, of two the even one; at most 448.
fn to_e4m3(value: f32) -> u8 {
    let size = value.abs().min(E4M3_MAX);
    // Below 2^-6 numbers are multiples of 2^-9: above 2^23 floats are whole numbers, so the sum is rounded to one.
    let small = (size * 512.0 + 8_388_608.0).to_bits() & 0xff;
    // Above, the fraction is rounded to three bits; a carry makes the next exponent. Exponents begin at -6, not -126.
    let bits = size.to_bits();
    let large = ((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3);
    let code = if size < 0.015_625 { small } else { large };
    code as u8 | if value.is_sign_negative() { 0x80 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row `(i - 13) / 8`, as MLX 0.32 quantizes it.
    #[test]
    fn quantizer_gives_mlx_words() {
        let row: Vec<f32> = (0..32).map(|i| (i - 13) as f32 / 8.0).collect();
        let quantized = |mode| {
            let matrix = SmallFloatMatrix::quantize(&row, 1, 32, mode);
            let words = matrix.codes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect::<Vec<_>>();
            (words, matrix.scales)
        };
        let words = vec![0xbbcc_cddd, 0x1000_99aa, 0x4443_3221, 0x6666_5555];
        assert_eq!(quantized(SmallFloat::Mxfp4), (words, vec![126]));
        let (words, scales) = quantized(SmallFloat::Mxfp8);
        assert_eq!((&words[..4], scales), (&[0xf2f3_f4f5, 0xecee_f0f1, 0xe0e4_e8ea, 0x6058_00d8][..], vec![120]));
        let words = vec![0xddee_eeff, 0x2109_abcc, 0x5554_4332, 0x7776_6666];
        assert_eq!(quantized(SmallFloat::Nvfp4), (words, vec![41, 44]));
    }

    /// The same row, quantized by MLX with a global scale of 2.25 (and of 4.5 for a second part).
    #[test]
    fn global_scales_are_worth_what_mlx_says() {
        let words = [0xddee_efffu32, 0x2109_abcc, 0x5554_4332, 0x7776_6666];
        let codes: Vec<u8> = words.repeat(2).into_iter().flat_map(u32::to_le_bytes).collect();
        let global: Vec<u8> = [2.25f32, 4.5].into_iter().flat_map(f32::to_le_bytes).collect();
        let scales = [122, 126, 122, 126];
        let (mode, global) = (SmallFloat::Nvfp4, Some(&global[..]));
        let view = SmallFloatView { mode, n_rows: 2, n_cols: 32, codes: &codes, scales: &scales, global };
        let found = view.dequantize();
        let expected = [(0, -1.607_142_8f32), (3, -1.071_428_5), (7, -0.803_571_4), (12, -0.133_928_57), (13, 0.0)];
        for (ix, number) in expected.into_iter().chain([(16, 0.375), (17, 0.5625), (31, 2.25)]) {
            assert!((found[ix] - number).abs() <= 2e-7 * number.abs(), "{ix}: {} is not {number}", found[ix]);
            assert!((found[32 + ix] - 2.0 * number).abs() <= 4e-7 * number.abs());
        }
    }

    #[test]
    fn every_code_survives_the_way_back() {
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(to_e4m3(e4m3(code)), code, "e4m3 {}", e4m3(code));
            assert_eq!(to_e8m0(e8m0(code & 0x7f)), code & 0x7f);
        }
        for code in (0..16).filter(|code| *code != 8) {
            assert_eq!(to_e2m1(e2m1(code)), code, "e2m1 {}", e2m1(code));
        }
    }

    #[test]
    fn ties_and_ends_are_those_of_mlx() {
        let e2m1 = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -0.75, -5.0, -0.1, 7.0].map(to_e2m1);
        assert_eq!(e2m1, [0, 1, 2, 3, 4, 5, 6, 0, 9, 14, 0, 7]);
        let e4m3 = [432.0, 440.0, 17.0, 19.0, -17.0, 33.0, 38.0, -0.0, -0.0001, 1.0, 500.0].map(to_e4m3);
        assert_eq!(e4m3, [126, 126, 88, 90, 216, 96, 98, 128, 128, 56, 126]);
        let small = [-4.0f32, 1.0, 2.0, 3.0, 5.0, 26.0].map(|k| to_e4m3(k / 1024.0));
        assert_eq!(small, [130, 0, 1, 2, 2, 13]);
        assert_eq!([0.0, 1.0, 1.01, 1e-45, f32::MAX].map(to_e8m0), [127, 127, 128, 0, 254]);
    }

    #[test]
    fn shapes_tell_the_mode() {
        assert_eq!(SmallFloat::infer(64, 8, 2), Ok(SmallFloat::Mxfp4));
        assert_eq!(SmallFloat::infer(64, 8, 4), Ok(SmallFloat::Nvfp4));
        assert_eq!(SmallFloat::infer(64, 16, 2), Ok(SmallFloat::Mxfp8));
        assert!(SmallFloat::infer(64, 16, 4).unwrap_err().contains("16 words and 4 scales"));
        assert!(SmallFloat::infer(0, 0, 0).is_err());
    }
}
