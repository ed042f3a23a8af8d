//! NEON: eight lanes as two registers of four.

use super::{Op, Simd};
use std::arch::aarch64::*;

#[derive(Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    /// NEON is part of every aarch64 target.
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self(())
    }
}

pub(super) fn run<O: Op>(op: O) -> O::Out {
    op.run(Neon::new())
}

#[derive(Clone, Copy)]
pub(super) struct F(float32x4_t, float32x4_t);

impl F {
    #[inline(always)]
    pub(super) fn new(low: float32x4_t, high: float32x4_t) -> Self {
        Self(low, high)
    }
}

#[derive(Clone, Copy)]
pub(super) struct U(uint32x4_t, uint32x4_t);

/// f16 to f32 by moving exponent and mantissa into place; the factor corrects the exponent's bias and makes
/// subnormals right. Infinities become 65536, which finite weights never meet.
#[inline(always)]
unsafe fn widen_f16(h: uint16x4_t) -> float32x4_t {
    // SAFETY: register arithmetic only.
    unsafe {
        let w = vmovl_u16(h);
        let magnitude = vshlq_n_u32::<13>(vandq_u32(w, vdupq_n_u32(0x7fff)));
        let scaled = vmulq_n_f32(vreinterpretq_f32_u32(magnitude), f32::from_bits((127 + 112) << 23));
        let sign = vshlq_n_u32::<16>(vandq_u32(w, vdupq_n_u32(0x8000)));
        vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(scaled), sign))
    }
}

// SAFETY of every block below: NEON is always there; pointers are the callers' to vouch for.
#[allow(unused_unsafe)]
impl Simd for Neon {
    type F = F;
    type U = U;
    type Unpack = u32;
    type Table = [f32; 16];

    #[inline(always)]
    fn splat(self, v: f32) -> F {
        unsafe { F(vdupq_n_f32(v), vdupq_n_f32(v)) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        unsafe { F(vld1q_f32(p), vld1q_f32(p.add(4))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        unsafe {
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
        }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        unsafe { F(vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        unsafe { F(vsubq_f32(a.0, b.0), vsubq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        unsafe { F(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        unsafe { F(vdivq_f32(a.0, b.0), vdivq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        unsafe { F(vmaxq_f32(a.0, b.0), vmaxq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        unsafe { F(vminq_f32(a.0, b.0), vminq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        unsafe { F(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
    #[inline(always)]
    fn sum(self, v: F) -> f32 {
        unsafe { vaddvq_f32(vaddq_f32(v.0, v.1)) }
    }
    #[inline(always)]
    fn max_lane(self, v: F) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(v.0, v.1)) }
    }
    #[inline(always)]
    fn zero_below(self, x: F, bound: F, v: F) -> F {
        unsafe {
            let low = vandq_u32(vreinterpretq_u32_f32(v.0), vcgeq_f32(x.0, bound.0));
            let high = vandq_u32(vreinterpretq_u32_f32(v.1), vcgeq_f32(x.1, bound.1));
            F(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }
    #[inline(always)]
    fn shift_into_exponent(self, v: F) -> F {
        unsafe {
            let low = vshlq_n_u32::<23>(vreinterpretq_u32_f32(v.0));
            let high = vshlq_n_u32::<23>(vreinterpretq_u32_f32(v.1));
            F(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> F {
        unsafe {
            let h = vreinterpretq_u16_u8(vld1q_u8(p));
            F(widen_f16(vget_low_u16(h)), widen_f16(vget_high_u16(h)))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> F {
        unsafe {
            let h = vreinterpretq_u16_u8(vld1q_u8(p));
            let low = vshll_n_u16::<16>(vget_low_u16(h));
            let high = vshll_n_u16::<16>(vget_high_u16(h));
            F(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }

    #[inline(always)]
    fn words(self, v: [u32; 8]) -> U {
        unsafe { U(vld1q_u32(v.as_ptr()), vld1q_u32(v.as_ptr().add(4))) }
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u8) -> U {
        unsafe { U(vreinterpretq_u32_u8(vld1q_u8(p)), vreinterpretq_u32_u8(vld1q_u8(p.add(16)))) }
    }
    #[inline(always)]
    unsafe fn load_words_twice(self, p: *const u8) -> U {
        unsafe {
            let v = vreinterpretq_u32_u8(vld1q_u8(p));
            U(v, v)
        }
    }
    #[inline(always)]
    fn and(self, a: U, b: U) -> U {
        unsafe { U(vandq_u32(a.0, b.0), vandq_u32(a.1, b.1)) }
    }
    #[inline(always)]
    fn shift_right(self, a: U, n: U) -> U {
        unsafe {
            let low = vshlq_u32(a.0, vnegq_s32(vreinterpretq_s32_u32(n.0)));
            let high = vshlq_u32(a.1, vnegq_s32(vreinterpretq_s32_u32(n.1)));
            U(low, high)
        }
    }
    #[inline(always)]
    fn shift_left(self, a: U, n: U) -> U {
        unsafe { U(vshlq_u32(a.0, vreinterpretq_s32_u32(n.0)), vshlq_u32(a.1, vreinterpretq_s32_u32(n.1))) }
    }
    #[inline(always)]
    fn add_words(self, a: U, b: U) -> U {
        unsafe { U(vaddq_u32(a.0, b.0), vaddq_u32(a.1, b.1)) }
    }
    #[inline(always)]
    fn as_float(self, v: U) -> F {
        unsafe { F(vreinterpretq_f32_u32(v.0), vreinterpretq_f32_u32(v.1)) }
    }
    #[inline(always)]
    fn or(self, a: F, b: F) -> F {
        unsafe {
            let low = vorrq_u32(vreinterpretq_u32_f32(a.0), vreinterpretq_u32_f32(b.0));
            let high = vorrq_u32(vreinterpretq_u32_f32(a.1), vreinterpretq_u32_f32(b.1));
            F(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }
    #[inline(always)]
    fn table(self, numbers: &[f32; 16]) -> [f32; 16] {
        *numbers
    }
    #[inline(always)]
    fn lookup(self, table: [f32; 16], ix: U) -> F {
        let mut places = [0u32; 8];
        // SAFETY: eight words, then eight numbers.
        unsafe {
            vst1q_u32(places.as_mut_ptr(), ix.0);
            vst1q_u32(places.as_mut_ptr().add(4), ix.1);
            let numbers = places.map(|ix| table[(ix & 15) as usize]);
            self.load(numbers.as_ptr())
        }
    }
    #[inline(always)]
    fn to_float(self, v: U) -> F {
        unsafe { F(vcvtq_f32_u32(v.0), vcvtq_f32_u32(v.1)) }
    }

    #[inline(always)]
    fn unpack(self, bits: u32) -> u32 {
        bits
    }
    #[inline(always)]
    unsafe fn unpack8_words(self, p: *const u8, bits: u32) -> U {
        // SAFETY: the caller's.
        let stream = u64::from_le_bytes(unsafe { p.cast::<[u8; 8]>().read_unaligned() });
        let mask = (1u64 << bits) - 1;
        let codes: [u32; 8] = std::array::from_fn(|i| ((stream >> (i as u32 * bits)) & mask) as u32);
        self.words(codes)
    }
}
