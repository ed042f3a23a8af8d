//! NEON with dotprod: `sdot` adds four products of signed bytes to a lane of 32 bits.

use super::super::neon::{F, Neon};
use super::{Dot, DotOp, Pair};
use std::arch::aarch64::*;
use std::arch::asm;

/// Exists only where the processor has dotprod: [`run`] makes it.
#[derive(Clone, Copy)]
struct NeonDot(Neon);

/// # Safety
/// The processor has dotprod.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run<O: DotOp>(op: O) {
    op.run(NeonDot(Neon::new()));
}

/// 32 bytes: first and last 32 columns.
#[derive(Clone, Copy)]
struct Bytes(uint8x16_t, uint8x16_t);

/// How 16 codes of a stream become 16 bytes, as in the AVX2 module.
#[derive(Clone, Copy)]
struct Unpack {
    bytes: [uint8x16_t; 2],
    factors: [uint16x8_t; 2],
    shift: int16x8_t,
    bits: usize,
}

/// sum\[i\] += a\[4 i..4 i + 4\] . b\[4 i..4 i + 4\], signed. The standard library's form of the instruction is not
/// stable yet.
///
/// # Safety
/// The processor has dotprod.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    // SAFETY: register arithmetic only; the feature is the caller's.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

// SAFETY of every block below: `self` proves the features; pointers are the callers' to vouch for.
#[allow(unused_unsafe)]
impl Dot for NeonDot {
    type S = Neon;
    type B = Bytes;
    type Unpack = Unpack;

    #[inline(always)]
    fn simd(self) -> Neon {
        self.0
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> Pair<Bytes> {
        unsafe { [Bytes(vld1q_u8(p), vld1q_u8(p.add(16))), Bytes(vld1q_u8(p.add(32)), vld1q_u8(p.add(48)))] }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u8, v: Pair<Bytes>) {
        unsafe {
            vst1q_u8(p, v[0].0);
            vst1q_u8(p.add(16), v[0].1);
            vst1q_u8(p.add(32), v[1].0);
            vst1q_u8(p.add(48), v[1].1);
        }
    }
    #[inline(always)]
    unsafe fn nibbles(self, p: *const u8) -> Pair<Bytes> {
        unsafe {
            let (a, b, mask) = (vld1q_u8(p), vld1q_u8(p.add(16)), vdupq_n_u8(15));
            [Bytes(vandq_u8(a, mask), vandq_u8(b, mask)), Bytes(vshrq_n_u8::<4>(a), vshrq_n_u8::<4>(b))]
        }
    }
    #[inline(always)]
    unsafe fn bytes(self, p: *const u8) -> Pair<Bytes> {
        unsafe { [Bytes(vld1q_u8(p), vld1q_u8(p.add(32))), Bytes(vld1q_u8(p.add(16)), vld1q_u8(p.add(48)))] }
    }
    #[inline(always)]
    fn unpacker(self, bits: u32) -> Unpack {
        let mut bytes = [[0u8; 16]; 2];
        let mut factors = [[0u16; 8]; 2];
        for code in 0..16 {
            let (eight, lane) = (code / 8, code % 8);
            let bit = code as u32 * bits;
            bytes[eight][2 * lane] = (bit / 8) as u8;
            bytes[eight][2 * lane + 1] = (bit / 8 + 1) as u8;
            factors[eight][lane] = 1 << (16 - bits - bit % 8);
        }
        unsafe {
            Unpack {
                bytes: [vld1q_u8(bytes[0].as_ptr()), vld1q_u8(bytes[1].as_ptr())],
                factors: [vld1q_u16(factors[0].as_ptr()), vld1q_u16(factors[1].as_ptr())],
                shift: vdupq_n_s16(bits as i16 - 16),
                bits: bits as usize,
            }
        }
    }
    #[inline(always)]
    unsafe fn unpack(self, p: *const u8, how: Unpack) -> Pair<Bytes> {
        unsafe {
            let sixteen = |at: usize| {
                let stream = vld1q_u8(p.add(2 * how.bits * at));
                let eight = |i: usize| {
                    let pairs = vreinterpretq_u16_u8(vqtbl1q_u8(stream, how.bytes[i]));
                    vmovn_u16(vshlq_u16(vmulq_u16(pairs, how.factors[i]), how.shift))
                };
                vcombine_u8(eight(0), eight(1))
            };
            [Bytes(sixteen(0), sixteen(2)), Bytes(sixteen(1), sixteen(3))]
        }
    }
    #[inline(always)]
    fn dot<const WIDE: bool>(self, codes: Pair<Bytes>, q: Pair<Bytes>) -> F {
        unsafe {
            let add = |sum: int32x4_t, codes: uint8x16_t, q: uint8x16_t| {
                if !WIDE {
                    return sdot(sum, codes, q);
                }
                // code = (code - 128) + 64 + 64, each of them a signed byte.
                let half = vdupq_n_u8(64);
                sdot(sdot(sdot(sum, veorq_u8(codes, vdupq_n_u8(0x80)), q), half, q), half, q)
            };
            let zero = vdupq_n_s32(0);
            let low = add(add(zero, codes[0].0, q[0].0), codes[1].0, q[1].0);
            let high = add(add(zero, codes[0].1, q[0].1), codes[1].1, q[1].1);
            F::new(vcvtq_f32_s32(low), vcvtq_f32_s32(high))
        }
    }
    #[inline(always)]
    fn halves(self, low: f32, high: f32) -> F {
        unsafe { F::new(vdupq_n_f32(low), vdupq_n_f32(high)) }
    }
}
