//! AVX2, FMA and F16C.

use super::{Op, Simd};
use std::arch::x86_64::*;

/// Exists only where the processor has the features: [`run`] makes it.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Self(())
    }
}

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<O: Op>(op: O) -> O::Out {
    op.run(Avx2(()))
}

/// Byte choice and shifts that bring eight codes of a stream of up to 64 bits into eight lanes.
#[derive(Clone, Copy)]
pub(super) struct Unpack {
    bytes: __m256i,
    shifts: __m256i,
    mask: __m256i,
}

/// Four values of row r and, in the high half, of row r + 4: with these no exchange of halves is left for the end of a
/// transposition.
///
/// # Safety
/// The features, and the rows readable.
#[inline(always)]
unsafe fn rows_apart(src: *const f32, stride: usize, r: usize) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        let low = _mm256_castps128_ps256(_mm_loadu_ps(src.add(r * stride)));
        _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(src.add((r + 4) * stride)))
    }
}

// SAFETY of every block below: `self` proves the features; pointers are the callers' to vouch for.
impl Simd for Avx2 {
    type F = __m256;
    type U = __m256i;
    type Unpack = Unpack;
    type Table = [__m256; 2];

    #[inline(always)]
    fn splat(self, v: f32) -> __m256 {
        unsafe { _mm256_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        unsafe {
            let q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn max_lane(self, v: __m256) -> f32 {
        unsafe {
            let q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let d = _mm_max_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn zero_below(self, x: __m256, bound: __m256, v: __m256) -> __m256 {
        unsafe { _mm256_and_ps(v, _mm256_cmp_ps::<_CMP_GE_OQ>(x, bound)) }
    }
    #[inline(always)]
    fn shift_into_exponent(self, v: __m256) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v))) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m256 {
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    fn words(self, v: [u32; 8]) -> __m256i {
        unsafe { _mm256_loadu_si256(v.as_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_words_twice(self, p: *const u8) -> __m256i {
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    fn shift_right(self, a: __m256i, n: __m256i) -> __m256i {
        unsafe { _mm256_srlv_epi32(a, n) }
    }
    #[inline(always)]
    fn shift_left(self, a: __m256i, n: __m256i) -> __m256i {
        unsafe { _mm256_sllv_epi32(a, n) }
    }
    #[inline(always)]
    fn add_words(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    fn as_float(self, v: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(v) }
    }
    #[inline(always)]
    fn or(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_or_ps(a, b) }
    }
    #[inline(always)]
    fn table(self, numbers: &[f32; 16]) -> [__m256; 2] {
        unsafe { [_mm256_loadu_ps(numbers.as_ptr()), _mm256_loadu_ps(numbers.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn lookup(self, table: [__m256; 2], ix: __m256i) -> __m256 {
        unsafe {
            // Three bits choose of each half, the fourth, brought to the sign, between the halves.
            let (low, high) = (_mm256_permutevar8x32_ps(table[0], ix), _mm256_permutevar8x32_ps(table[1], ix));
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(ix)))
        }
    }
    #[inline(always)]
    fn to_float(self, v: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(v) }
    }

    #[inline(always)]
    fn unpack(self, bits: u32) -> Unpack {
        // Code i begins in byte i * bits / 8 and reaches at most into the next.
        let mut bytes = [0x80u8; 32];
        let mut shifts = [0u32; 8];
        for i in 0..8 {
            let bit = i as u32 * bits;
            let byte = (bit / 8) as u8;
            bytes[4 * i] = byte;
            bytes[4 * i + 1] = if byte < 7 { byte + 1 } else { 0x80 };
            shifts[i] = bit % 8;
        }
        unsafe {
            Unpack {
                bytes: _mm256_loadu_si256(bytes.as_ptr().cast()),
                shifts: _mm256_loadu_si256(shifts.as_ptr().cast()),
                mask: _mm256_set1_epi32((1 << bits) - 1),
            }
        }
    }
    #[inline(always)]
    unsafe fn unpack8_words(self, p: *const u8, how: Unpack) -> __m256i {
        unsafe {
            let all = _mm256_set1_epi64x(p.cast::<i64>().read_unaligned());
            let pairs = _mm256_shuffle_epi8(all, how.bytes);
            _mm256_and_si256(_mm256_srlv_epi32(pairs, how.shifts), how.mask)
        }
    }

    #[inline(always)]
    unsafe fn transpose8(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        unsafe {
            for c in [0, 4] {
                let src = src.add(c);
                let (a, b) = (rows_apart(src, src_stride, 0), rows_apart(src, src_stride, 1));
                let (d, e) = (rows_apart(src, src_stride, 2), rows_apart(src, src_stride, 3));
                let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (de0, de1) = (_mm256_unpacklo_ps(d, e), _mm256_unpackhi_ps(d, e));
                let dst = dst.add(c * dst_stride);
                _mm256_storeu_ps(dst, _mm256_shuffle_ps::<0x44>(ab0, de0));
                _mm256_storeu_ps(dst.add(dst_stride), _mm256_shuffle_ps::<0xee>(ab0, de0));
                _mm256_storeu_ps(dst.add(2 * dst_stride), _mm256_shuffle_ps::<0x44>(ab1, de1));
                _mm256_storeu_ps(dst.add(3 * dst_stride), _mm256_shuffle_ps::<0xee>(ab1, de1));
            }
        }
    }
}
