//! VNNI: `dpbusd` adds four products of bytes to a lane of 32 bits. The AVX form and that of AVX-512 differ in their
//! encoding alone; both are used on vectors of 256 bits, so that all else is AVX2's.

use super::super::avx2::Avx2;
use super::avx2::{Unpack, shared, sixteens};
use super::{Dot, DotOp, Pair};
use std::arch::x86_64::*;

/// Exists only where the processor has the features: [`run_avx`] makes it.
#[derive(Clone, Copy)]
struct AvxVnni(Avx2);

/// Exists only where the processor has the features: [`run_avx512`] makes it.
#[derive(Clone, Copy)]
struct Avx512Vnni(Avx2);

/// # Safety
/// The processor has AVX2, FMA, F16C and AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn run_avx<O: DotOp>(op: O) {
    // SAFETY: the caller's.
    op.run(AvxVnni(unsafe { Avx2::assume() }));
}

/// # Safety
/// The processor has AVX2, FMA, F16C, AVX-512 VNNI and VL.
#[target_feature(enable = "avx2,fma,f16c,avx512vnni,avx512vl")]
pub(super) unsafe fn run_avx512<O: DotOp>(op: O) {
    // SAFETY: the caller's.
    op.run(Avx512Vnni(unsafe { Avx2::assume() }));
}

// SAFETY of every block below: `self` proves the features; pointers are the callers' to vouch for.
impl Dot for AvxVnni {
    shared!();

    #[inline(always)]
    fn dot<const WIDE: bool>(self, codes: Pair<__m256i>, q: Pair<__m256i>) -> __m256 {
        unsafe {
            let sum = _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), codes[0], q[0]);
            _mm256_cvtepi32_ps(_mm256_dpbusd_avx_epi32(sum, codes[1], q[1]))
        }
    }
}

impl Dot for Avx512Vnni {
    shared!();

    #[inline(always)]
    fn dot<const WIDE: bool>(self, codes: Pair<__m256i>, q: Pair<__m256i>) -> __m256 {
        unsafe {
            let sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), codes[0], q[0]);
            _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(sum, codes[1], q[1]))
        }
    }
}
