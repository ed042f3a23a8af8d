//! Vectors of eight f32, chosen at run time: AVX2 on x86-64, NEON on aarch64, plain arrays elsewhere.
//!
//! A kernel is written once, generic over [`Simd`], as an [`Op`]; [`dispatch`] compiles it for each instruction set and
//! picks at run time. Everything below an `Op::run` must be `#[inline(always)]`, or it is compiled without the
//! instruction set and calls leave registers.
#![allow(unsafe_code)]

pub(crate) mod attend;
#[cfg(target_arch = "x86_64")]
mod avx2;
pub(crate) mod gemm;
pub(crate) mod int8;
pub(crate) mod math;
pub(crate) mod matvec;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
pub(crate) mod unpack;

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;

/// Eight-lane vectors of one instruction set. A value of the type is the proof that the processor has it.
pub(crate) trait Simd: Copy {
    /// Eight f32.
    type F: Copy;
    /// Eight u32.
    type U: Copy;
    /// What [`Simd::unpack8_words`] needs to know about a bit width.
    type Unpack: Copy;
    /// Sixteen numbers, see [`Simd::lookup`].
    type Table: Copy;

    fn splat(self, v: f32) -> Self::F;
    /// # Safety
    /// 8 readable f32 at `p`, of any alignment.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// 8 writable f32 at `p`, of any alignment.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn sum(self, v: Self::F) -> f32;
    fn max_lane(self, v: Self::F) -> f32;
    /// v where x >= bound, else 0.
    fn zero_below(self, x: Self::F, bound: Self::F, v: Self::F) -> Self::F;
    /// The bits of each lane shifted left by 23, as f32.
    fn shift_into_exponent(self, v: Self::F) -> Self::F;
    /// # Safety
    /// 16 readable bytes at `p`.
    unsafe fn load_f16(self, p: *const u8) -> Self::F;
    /// # Safety
    /// 16 readable bytes at `p`.
    unsafe fn load_bf16(self, p: *const u8) -> Self::F;

    /// Asks for the cache line at `p`, which need not be readable.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}

    fn words(self, v: [u32; 8]) -> Self::U;
    /// # Safety
    /// 32 readable bytes at `p`.
    unsafe fn load_words(self, p: *const u8) -> Self::U;
    /// The four words at `p` in the low and again in the high lanes.
    ///
    /// # Safety
    /// 16 readable bytes at `p`.
    unsafe fn load_words_twice(self, p: *const u8) -> Self::U;
    fn and(self, a: Self::U, b: Self::U) -> Self::U;
    /// Lane-wise a >> n, n below 32.
    fn shift_right(self, a: Self::U, n: Self::U) -> Self::U;
    /// Lane-wise a << n, n below 32.
    fn shift_left(self, a: Self::U, n: Self::U) -> Self::U;
    /// Lane-wise a + b, modulo 2^32.
    fn add_words(self, a: Self::U, b: Self::U) -> Self::U;
    /// The same bits.
    fn as_float(self, v: Self::U) -> Self::F;
    /// The bits of both.
    fn or(self, a: Self::F, b: Self::F) -> Self::F;
    /// To f32; lanes below 2^31.
    fn to_float(self, v: Self::U) -> Self::F;

    fn table(self, numbers: &[f32; 16]) -> Self::Table;
    /// The table's numbers at indexes below 16.
    fn lookup(self, table: Self::Table, ix: Self::U) -> Self::F;

    fn unpack(self, bits: u32) -> Self::Unpack;
    /// The first eight codes of the bit stream at `p`, code i in lane i.
    ///
    /// # Safety
    /// 8 readable bytes at `p`, however few the codes need.
    unsafe fn unpack8_words(self, p: *const u8, how: Self::Unpack) -> Self::U;
    /// The same as floats.
    ///
    /// # Safety
    /// As [`Simd::unpack8_words`].
    #[inline(always)]
    unsafe fn unpack8(self, p: *const u8, how: Self::Unpack) -> Self::F {
        // SAFETY: the caller's.
        self.to_float(unsafe { self.unpack8_words(p, how) })
    }

    /// dst[c * dst_stride + r] = src[r * src_stride + c] for r, c in 0..8.
    ///
    /// # Safety
    /// 8 rows of 8 f32 each readable at `src` and writable at `dst`.
    #[inline(always)]
    unsafe fn transpose8(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        for r in 0..8 {
            for c in 0..8 {
                // SAFETY: within the rows that the caller vouches for.
                unsafe { *dst.add(c * dst_stride + r) = *src.add(r * src_stride + c) };
            }
        }
    }
}

/// A computation that can be compiled for any instruction set.
pub(crate) trait Op {
    type Out;
    /// Must be `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// An instruction set of this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// No vector instructions named.
    Scalar,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// The best that this processor has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            return Level::Avx2;
        }
        #[cfg(target_arch = "aarch64")]
        return Level::Neon;
        #[cfg(not(target_arch = "aarch64"))]
        Level::Scalar
    }

    /// Name for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
        }
    }
}

/// Runs `op` with the best instruction set (the standard library remembers what it detected).
#[inline]
pub(crate) fn dispatch<O: Op>(op: O) -> O::Out {
    match Level::detect() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` has just seen the features.
        Level::Avx2 => unsafe { avx2::run(op) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => neon::run(op),
        Level::Scalar => op.run(scalar::Scalar),
    }
}

/// Runs `op` with arrays instead of vectors: what the tests compare with.
#[cfg(test)]
pub(crate) fn dispatch_scalar<O: Op>(op: O) -> O::Out {
    op.run(scalar::Scalar)
}
