//! Stored weights to f32, in natural order.

use super::{LANES, Op, Simd};
use crate::cpu::weight::{FloatType, Format, Segment, SmallFloat, k_scale};
use ingot_ir::weight::KFormat;

/// Columns `col..col + out.len()` of one row of a segment of `n_cols` columns, as f32. For affine formats `col` and the
/// length are multiples of 32 (a code word boundary), for other quantized formats of their group; they may begin and end inside an affine group.
pub(crate) struct Unpack<'a> {
    pub(crate) segment: &'a Segment<'a>,
    pub(crate) n_cols: usize,
    pub(crate) row: usize,
    pub(crate) col: usize,
    pub(crate) out: &'a mut [f32],
}

impl Op for Unpack<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Unpack { segment, n_cols, row, col, out } = self;
        let format = segment.format;
        let row_bytes = format.row_bytes(n_cols);
        assert!(row < segment.n_rows && col + out.len() <= n_cols, "columns outside the weight");
        let codes = &segment.codes[row * row_bytes..(row + 1) * row_bytes];
        match format {
            Format::Float(float) => floats(s, float, codes, col, out),
            Format::Affine { bits, group, scale } => {
                let n_groups = n_cols / group;
                let at = row * n_groups * scale.size_bytes();
                let affine =
                    Affine { bits, group, scale, scales: &segment.scales[at..], biases: &segment.biases[at..] };
                affine_row(s, &affine, codes, col, out);
            }
            Format::SmallFloat(small) => {
                let scales = &segment.scales[row * format.n_groups(n_cols)..][..format.n_groups(n_cols)];
                small_row(s, small, codes, scales, segment.factor(row), col, out);
            }
            Format::K(k) => {
                let (header_bytes, _) = format.scale_bytes(n_cols);
                k_row(s, k, codes, &segment.scales[row * header_bytes..][..header_bytes], col, out);
            }
        }
    }
}

#[inline(always)]
fn floats<S: Simd>(s: S, float: FloatType, bytes: &[u8], col: usize, out: &mut [f32]) {
    let width = float.size_bytes();
    let n = out.len();
    let n_vector = n / LANES * LANES;
    let bytes = &bytes[col * width..(col + n) * width];
    for c in (0..n_vector).step_by(LANES) {
        // SAFETY: c + 8 <= n values in both slices.
        unsafe {
            let v = load_floats(s, float, bytes.as_ptr().add(c * width));
            s.store(out.as_mut_ptr().add(c), v);
        }
    }
    for (c, out) in out.iter_mut().enumerate().skip(n_vector) {
        *out = float.read(bytes, c);
    }
}

/// Eight stored floats.
///
/// # Safety
/// They are readable at `p`.
#[inline(always)]
pub(crate) unsafe fn load_floats<S: Simd>(s: S, float: FloatType, p: *const u8) -> S::F {
    // SAFETY: the caller's.
    unsafe {
        match float {
            FloatType::F32 => s.load(p.cast()),
            FloatType::F16 => s.load_f16(p),
            FloatType::Bf16 => s.load_bf16(p),
        }
    }
}

struct Affine<'a> {
    bits: u32,
    group: usize,
    scale: FloatType,
    scales: &'a [u8],
    biases: &'a [u8],
}

#[inline(always)]
fn affine_row<S: Simd>(s: S, affine: &Affine, codes: &[u8], col: usize, out: &mut [f32]) {
    assert!(col.is_multiple_of(32) && out.len().is_multiple_of(32), "affine columns come in blocks of 32");
    let bits = affine.bits as usize;
    let how = s.unpack(affine.bits);
    for (block, out) in out.chunks_exact_mut(32).enumerate() {
        let c = col + 32 * block;
        let group = c / affine.group;
        let scale = s.splat(affine.scale.read(affine.scales, group));
        let bias = s.splat(affine.scale.read(affine.biases, group));
        let bytes = &codes[c / 8 * bits..];
        for eight in 0..4 {
            let mut copy = [0; 8];
            // SAFETY: eight bytes as made sure of; `out` has 32 elements.
            unsafe {
                let codes = s.unpack8(eight_bytes(bytes, eight * bits, &mut copy), how);
                s.store(out.as_mut_ptr().add(8 * eight), s.fma(codes, scale, bias));
            }
        }
    }
}

#[inline(always)]
fn small_row<S: Simd>(s: S, small: SmallFloat, codes: &[u8], scales: &[u8], factor: f32, col: usize, out: &mut [f32]) {
    let (group, bits) = (small.group(), small.bits());
    assert!(col.is_multiple_of(group) && out.len().is_multiple_of(group), "columns come in whole groups");
    let tools = SmallTools::new(s, small);
    for (ix, out) in out.chunks_exact_mut(group).enumerate() {
        let c = col + ix * group;
        let scale = s.splat(small.scale(scales[c / group]) * factor);
        for (eight, out) in out.chunks_exact_mut(LANES).enumerate() {
            let mut copy = [0; 8];
            // SAFETY: eight bytes as made sure of; `out` has 8 elements.
            unsafe {
                let numbers = tools.eight(s, eight_bytes(codes, (c + LANES * eight) * bits / 8, &mut copy));
                s.store(out.as_mut_ptr(), s.mul(numbers, scale));
            }
        }
    }
}

#[inline(always)]
fn k_row<S: Simd>(s: S, k: KFormat, codes: &[u8], headers: &[u8], col: usize, out: &mut [f32]) {
    let (group, bits) = (k.group() as usize, k.bits() as usize);
    assert!(col.is_multiple_of(group) && out.len().is_multiple_of(group), "columns come in whole groups");
    let tools = KTools::new(s, k);
    for (ix, out) in out.chunks_exact_mut(group).enumerate() {
        let c = col + ix * group;
        let (scale, bias) = k_scale(k, headers, c / group);
        let (scale, bias) = (s.splat(scale), s.splat(bias));
        for (eight, out) in out.chunks_exact_mut(LANES).enumerate() {
            let mut copy = [0; 8];
            // SAFETY: eight bytes as made sure of; `out` has 8 elements.
            unsafe {
                let numbers = tools.eight(s, eight_bytes(codes, (c + LANES * eight) * bits / 8, &mut copy));
                s.store(out.as_mut_ptr(), s.fma(numbers, scale, bias));
            }
        }
    }
}

/// The table of iq4_nl and iq4_xs.
const IQ4: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// What decoding GGUF's codes needs, made once a call.
#[derive(Clone, Copy)]
pub(crate) struct KTools<S: Simd> {
    has_table: bool,
    unpack: S::Unpack,
    table: S::Table,
}

impl<S: Simd> KTools<S> {
    #[inline(always)]
    pub(crate) fn new(s: S, k: KFormat) -> Self {
        Self { has_table: k.has_table(), unpack: s.unpack(k.bits()), table: s.table(&IQ4) }
    }

    /// The numbers of the eight codes at `p`.
    ///
    /// # Safety
    /// 8 readable bytes at `p`, however few the codes need.
    #[inline(always)]
    pub(crate) unsafe fn eight(&self, s: S, p: *const u8) -> S::F {
        // SAFETY: the caller's.
        let codes = unsafe { s.unpack8_words(p, self.unpack) };
        if self.has_table { s.lookup(self.table, codes) } else { s.to_float(codes) }
    }
}

/// The numbers of e2m1 codes.
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// What decoding small floats needs, made once a call.
#[derive(Clone, Copy)]
pub(crate) struct SmallTools<S: Simd> {
    is_e2m1: bool,
    unpack: S::Unpack,
    table: S::Table,
    size_bits: S::U,
    sign_bit: S::U,
    bias: S::U,
    places: [S::U; 2],
}

impl<S: Simd> SmallTools<S> {
    #[inline(always)]
    pub(crate) fn new(s: S, small: SmallFloat) -> Self {
        let all = |word: u32| s.words([word; 8]);
        Self {
            is_e2m1: small.bits() == 4,
            unpack: s.unpack(small.bits() as u32),
            table: s.table(&E2M1),
            size_bits: all(0x7f),
            sign_bit: all(0x80),
            bias: all(120 << 23),
            places: [all(20), all(24)],
        }
    }

    /// The numbers of the eight codes at `p`.
    ///
    /// # Safety
    /// 8 readable bytes at `p`, however few the codes need.
    #[inline(always)]
    pub(crate) unsafe fn eight(&self, s: S, p: *const u8) -> S::F {
        // SAFETY: the caller's.
        let codes = unsafe { s.unpack8_words(p, self.unpack) };
        if self.is_e2m1 {
            return s.lookup(self.table, codes);
        }
        // e4m3: exponent and fraction where an f32 has them. What has no leading one comes out as 1.f at exponent -7
        // for 0.f at exponent -6, and there alone 2v - 2^-6 is less than v.
        let v = s.as_float(s.add_words(s.shift_left(s.and(codes, self.size_bits), self.places[0]), self.bias));
        let size = s.min(v, s.fma(v, s.splat(2.0), s.splat(-0.015_625)));
        s.or(size, s.as_float(s.shift_left(s.and(codes, self.sign_bit), self.places[1])))
    }
}

/// Where eight bytes that begin with those of `bytes` from `at` can be read: there, or near the end in `copy`.
#[inline(always)]
pub(crate) fn eight_bytes(bytes: &[u8], at: usize, copy: &mut [u8; 8]) -> *const u8 {
    let rest = &bytes[at..];
    if rest.len() >= 8 {
        return rest.as_ptr();
    }
    copy[..rest.len()].copy_from_slice(rest);
    copy.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{dispatch, dispatch_scalar};

    fn affine_codes(words: &[u32], bits: u32) -> Vec<f32> {
        let codes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let format = Format::Affine { bits, group: 32, scale: FloatType::F32 };
        let (scale, bias) = (1f32.to_le_bytes(), 0f32.to_le_bytes());
        let segment = Segment { n_rows: 1, format, codes: &codes, scales: &scale, biases: &bias, factors: &[] };
        let mut out = [vec![f32::NAN; 32], vec![f32::NAN; 32]];
        dispatch(Unpack { segment: &segment, n_cols: 32, row: 0, col: 0, out: &mut out[0] });
        dispatch_scalar(Unpack { segment: &segment, n_cols: 32, row: 0, col: 0, out: &mut out[1] });
        assert_eq!(out[0], out[1]);
        out[0].clone()
    }

    /// MLX's own words for the row (i - 13) / 8, i = 0..32: what they decode to must be near the row.
    #[test]
    fn mlx_words_decode_to_the_row_they_were_made_of() {
        let goldens: [(u32, &[u32], f32); 6] = [
            (2, &[0xaaabffff, 0x0015555a], -1.125),
            (3, &[0x6dbb6dbf, 0x26db9249, 0x00124a49], -0.5625),
            (4, &[0xccdeeeff, 0x889aaabc, 0x44566678, 0x00122234], -0.25),
            (5, &[0x75be77df, 0x3a56d7c6, 0x35cf8465, 0xc74254b6, 0x00443214], -0.125),
            (6, &[0x78ebcfbf, 0xbb6fc73d, 0x863967a6, 0x5765b75f, 0xa30e4125, 0x00210620], -0.060_810_81),
            (
                8,
                &[0xe6eef7ff, 0xc5ced6de, 0xa4adb5bd, 0x848c949c, 0x636b737b, 0x424a525a, 0x2129313a, 0x00081019],
                -0.015_202_703,
            ),
        ];
        for (bits, words, scale) in goldens {
            for (i, code) in affine_codes(words, bits).into_iter().enumerate() {
                let (found, row) = (code * scale + 2.25, (i as f32 - 13.0) / 8.0);
                // Half a step, and more at the end that the rounded scale does not quite reach.
                assert!((found - row).abs() <= scale.abs() * 0.75, "{bits} bits, column {i}: {found} for {row}");
            }
        }
    }
}
