//! AVX2: `maddubs` multiplies pairs of bytes into 16 bits.

use super::super::avx2::Avx2;
use super::{Dot, DotOp, Pair};
use std::arch::x86_64::*;

/// Exists only where the processor has the features: [`run`] makes it.
#[derive(Clone, Copy)]
pub(super) struct Avx2Dot(Avx2);

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<O: DotOp>(op: O) {
    // SAFETY: the caller's.
    op.run(Avx2Dot(unsafe { Avx2::assume() }));
}

/// How 16 codes of a stream, in each half, become 16 bytes: for the first and the last eight the two bytes that hold
/// each, and a factor that brings it to the top of these 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Unpack {
    bytes: [__m256i; 2],
    factors: [__m256i; 2],
    shift: __m128i,
    bits: usize,
}

impl Unpack {
    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    pub(super) unsafe fn new(bits: u32) -> Self {
        let mut bytes = [[0u8; 32]; 2];
        let mut factors = [[0u16; 16]; 2];
        for code in 0..32 {
            let (eight, lane) = (code % 16 / 8, code / 16 * 8 + code % 8);
            let bit = code as u32 % 16 * bits;
            bytes[eight][2 * lane] = (bit / 8) as u8;
            bytes[eight][2 * lane + 1] = (bit / 8 + 1) as u8;
            factors[eight][lane] = 1 << (16 - bits - bit % 8);
        }
        // SAFETY: the caller's; arrays of 32 bytes.
        unsafe {
            Self {
                bytes: [_mm256_loadu_si256(bytes[0].as_ptr().cast()), _mm256_loadu_si256(bytes[1].as_ptr().cast())],
                factors: [
                    _mm256_loadu_si256(factors[0].as_ptr().cast()),
                    _mm256_loadu_si256(factors[1].as_ptr().cast()),
                ],
                shift: _mm_cvtsi32_si128(16 - bits as i32),
                bits: bits as usize,
            }
        }
    }

    /// # Safety
    /// The processor has AVX2; bytes as [`Dot::unpack`] needs.
    #[inline(always)]
    pub(super) unsafe fn apply(self, p: *const u8) -> Pair<__m256i> {
        // SAFETY: the caller's.
        unsafe {
            let sixteen = |at: usize| {
                let both = sixteens(p.add(2 * self.bits * at), p.add(2 * self.bits * (at + 2)));
                let eight = |i: usize| {
                    let pairs = _mm256_shuffle_epi8(both, self.bytes[i]);
                    _mm256_srl_epi16(_mm256_mullo_epi16(pairs, self.factors[i]), self.shift)
                };
                _mm256_packus_epi16(eight(0), eight(1))
            };
            [sixteen(0), sixteen(1)]
        }
    }
}

/// 16 bytes at each place, as halves.
///
/// # Safety
/// The processor has AVX2, and the bytes are readable.
#[inline(always)]
pub(super) unsafe fn sixteens(low: *const u8, high: *const u8) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(low.cast()));
        _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(high.cast()))
    }
}

/// What every AVX level does alike.
macro_rules! shared {
    () => {
        type S = Avx2;
        type B = __m256i;
        type Unpack = Unpack;

        #[inline(always)]
        fn simd(self) -> Avx2 {
            self.0
        }
        #[inline(always)]
        unsafe fn load(self, p: *const u8) -> Pair<__m256i> {
            unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut u8, v: Pair<__m256i>) {
            unsafe {
                _mm256_storeu_si256(p.cast(), v[0]);
                _mm256_storeu_si256(p.add(32).cast(), v[1]);
            }
        }
        #[inline(always)]
        unsafe fn nibbles(self, p: *const u8) -> Pair<__m256i> {
            unsafe {
                let (bytes, mask) = (_mm256_loadu_si256(p.cast()), _mm256_set1_epi8(15));
                [_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask)]
            }
        }
        #[inline(always)]
        unsafe fn bytes(self, p: *const u8) -> Pair<__m256i> {
            unsafe { [sixteens(p, p.add(32)), sixteens(p.add(16), p.add(48))] }
        }
        #[inline(always)]
        fn unpacker(self, bits: u32) -> Unpack {
            unsafe { Unpack::new(bits) }
        }
        #[inline(always)]
        unsafe fn unpack(self, p: *const u8, how: Unpack) -> Pair<__m256i> {
            unsafe { how.apply(p) }
        }
        #[inline(always)]
        fn halves(self, low: f32, high: f32) -> __m256 {
            unsafe { _mm256_insertf128_ps::<1>(_mm256_set1_ps(low), _mm_set1_ps(high)) }
        }
    };
}
pub(super) use shared;

// SAFETY of every block below: `self` proves the features; pointers are the callers' to vouch for.
impl Dot for Avx2Dot {
    shared!();

    #[inline(always)]
    fn dot<const WIDE: bool>(self, codes: Pair<__m256i>, q: Pair<__m256i>) -> __m256 {
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let sum = if WIDE {
                // Two products of 255 * 127 would not fit 16 bits: even and odd columns apart.
                let even = _mm256_set1_epi16(0xff);
                let apart = |codes: __m256i, q: __m256i| {
                    let a = _mm256_maddubs_epi16(_mm256_and_si256(codes, even), q);
                    let b = _mm256_maddubs_epi16(_mm256_andnot_si256(even, codes), q);
                    _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones))
                };
                _mm256_add_epi32(apart(codes[0], q[0]), apart(codes[1], q[1]))
            } else {
                // Four products of 63 * 127 fit.
                let (a, b) = (_mm256_maddubs_epi16(codes[0], q[0]), _mm256_maddubs_epi16(codes[1], q[1]));
                _mm256_madd_epi16(_mm256_add_epi16(a, b), ones)
            };
            _mm256_cvtepi32_ps(sum)
        }
    }
}
