//! Products of codes with activations that were rounded to 8 bits, in whole numbers.
//!
//! 32 columns of x share a factor d, and x is nearly d * q with q in -127..=127. So an affine row is
//! y = sum over groups of scale * (sum over blocks of d * (sum of code * q)) + bias * (sum of d * q):
//! the exact product of the weights with the rounded x, but for f32 sums. Whatever computes it, the result is the same
//! within f32 rounding.
//!
//! | module | |
//! |---|---|
//! | [`round`] | f32 to blocks of 64 columns |
//! | [`product`] | weight rows times rows of blocks |
//! | `avx2`, `vnni`, `neon`, `scalar` | [`Dot`] for each instruction set |

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod product;
pub(crate) mod round;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::Simd;

/// 64 codes in the order of [`round::Order`], or 64 rounded activations: two vectors of 32 bytes, the low half of each
/// belonging to the first 32 columns and the high half to the last 32.
pub(crate) type Pair<B> = [B; 2];

/// Instructions for 8-bit products. A value of the type is the proof that the processor has them.
pub(crate) trait Dot: Copy {
    /// Its vectors of f32.
    type S: Simd;
    /// 32 bytes.
    type B: Copy;
    /// What [`Dot::unpack`] needs to know about a bit width.
    type Unpack: Copy;

    fn simd(self) -> Self::S;
    /// # Safety
    /// 64 readable bytes at `p`.
    unsafe fn load(self, p: *const u8) -> Pair<Self::B>;
    /// # Safety
    /// 64 writable bytes at `p`.
    unsafe fn store(self, p: *mut u8, v: Pair<Self::B>);
    /// The low and the high nibbles of 32 bytes.
    ///
    /// # Safety
    /// 32 readable bytes at `p`.
    unsafe fn nibbles(self, p: *const u8) -> Pair<Self::B>;
    /// 64 bytes in natural order, halves brought to their places.
    ///
    /// # Safety
    /// 64 readable bytes at `p`.
    unsafe fn bytes(self, p: *const u8) -> Pair<Self::B>;
    /// For codes of 2 to 6 bits.
    fn unpacker(self, bits: u32) -> Self::Unpack;
    /// 64 codes of `bits` bits in natural order, halves brought to their places.
    ///
    /// # Safety
    /// 6 * bits + 16 readable bytes at `p`, which is more than the codes need.
    unsafe fn unpack(self, p: *const u8, how: Self::Unpack) -> Pair<Self::B>;
    /// Sums of code * q as f32, exact: lanes 0 to 3 add up to that of the first 32 columns, lanes 4 to 7 to that of the
    /// last. Codes are below 64, or with `WIDE` below 256; q is not -128.
    fn dot<const WIDE: bool>(self, codes: Pair<Self::B>, q: Pair<Self::B>) -> <Self::S as Simd>::F;
    /// `low` in lanes 0 to 3, `high` in lanes 4 to 7.
    fn halves(self, low: f32, high: f32) -> <Self::S as Simd>::F;
}

/// A computation that can be compiled for any of them.
pub(crate) trait DotOp {
    /// Must be `#[inline(always)]`.
    fn run<D: Dot>(self, d: D);
}

/// Which instructions multiply 8-bit numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int8Level {
    /// None that are named.
    Scalar,
    /// AVX2: products of pairs in 16 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-VNNI: four products a lane.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 VNNI, on vectors of 256 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// NEON with dotprod.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Int8Level {
    /// All that this build knows, the plain one first.
    pub const ALL: &'static [Self] = &[
        Int8Level::Scalar,
        #[cfg(target_arch = "x86_64")]
        Int8Level::Avx2,
        #[cfg(target_arch = "x86_64")]
        Int8Level::AvxVnni,
        #[cfg(target_arch = "x86_64")]
        Int8Level::Avx512Vnni,
        #[cfg(target_arch = "aarch64")]
        Int8Level::NeonDot,
    ];

    /// Whether this processor has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let base = super::Level::detect() == super::Level::Avx2;
        match self {
            Int8Level::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx2 => base,
            #[cfg(target_arch = "x86_64")]
            Int8Level::AvxVnni => base && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx512Vnni => {
                base && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "aarch64")]
            Int8Level::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
        }
    }

    /// The best that this processor has (the standard library remembers what it detected).
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.iter().rev().copied().find(|level| level.is_available()).unwrap_or(Int8Level::Scalar)
    }

    /// Name for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Int8Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Int8Level::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Int8Level::NeonDot => "neon-dotprod",
        }
    }

    /// Runs `op` with these instructions.
    ///
    /// # Panics
    /// If the processor lacks them.
    pub(crate) fn run<O: DotOp>(self, op: O) {
        assert!(self.is_available(), "this processor has no {}", self.name());
        match self {
            Int8Level::Scalar => op.run(scalar::Scalar8),
            // SAFETY of all: the assertion has just seen the features.
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx2 => unsafe { avx2::run(op) },
            #[cfg(target_arch = "x86_64")]
            Int8Level::AvxVnni => unsafe { vnni::run_avx(op) },
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx512Vnni => unsafe { vnni::run_avx512(op) },
            #[cfg(target_arch = "aarch64")]
            Int8Level::NeonDot => unsafe { neon::run(op) },
        }
    }
}
