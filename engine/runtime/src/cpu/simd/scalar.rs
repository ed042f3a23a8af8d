//! Vectors as arrays, for processors without a module of their own.

use super::Simd;
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub(super) struct Scalar;

#[inline(always)]
fn zip(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type F = [f32; 8];
    type U = [u32; 8];
    type Unpack = u32;
    type Table = [f32; 16];

    #[inline(always)]
    fn splat(self, v: f32) -> [f32; 8] {
        [v; 8]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; 8] {
        // SAFETY: the caller's.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) };
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn fma(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Not `mul_add`: without the instruction it is a slow library call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn sum(self, v: [f32; 8]) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    #[inline(always)]
    fn max_lane(self, v: [f32; 8]) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn zero_below(self, x: [f32; 8], bound: [f32; 8], v: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if x[i] >= bound[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    fn shift_into_exponent(self, v: [f32; 8]) -> [f32; 8] {
        v.map(|v| f32::from_bits(v.to_bits() << 23))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> [f32; 8] {
        // SAFETY: the caller's.
        let halves = unsafe { p.cast::<[[u8; 2]; 8]>().read_unaligned() };
        halves.map(|h| f16::from_le_bytes(h).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> [f32; 8] {
        // SAFETY: the caller's.
        let halves = unsafe { p.cast::<[[u8; 2]; 8]>().read_unaligned() };
        halves.map(|h| bf16::from_le_bytes(h).to_f32())
    }

    #[inline(always)]
    fn words(self, v: [u32; 8]) -> [u32; 8] {
        v
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u8) -> [u32; 8] {
        // SAFETY: the caller's.
        unsafe { p.cast::<[[u8; 4]; 8]>().read_unaligned() }.map(u32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn load_words_twice(self, p: *const u8) -> [u32; 8] {
        // SAFETY: the caller's.
        let v = unsafe { p.cast::<[[u8; 4]; 4]>().read_unaligned() }.map(u32::from_le_bytes);
        [v[0], v[1], v[2], v[3], v[0], v[1], v[2], v[3]]
    }
    #[inline(always)]
    fn and(self, a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn shift_right(self, a: [u32; 8], n: [u32; 8]) -> [u32; 8] {
        std::array::from_fn(|i| a[i] >> n[i])
    }
    #[inline(always)]
    fn shift_left(self, a: [u32; 8], n: [u32; 8]) -> [u32; 8] {
        std::array::from_fn(|i| a[i] << n[i])
    }
    #[inline(always)]
    fn add_words(self, a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn as_float(self, v: [u32; 8]) -> [f32; 8] {
        v.map(f32::from_bits)
    }
    #[inline(always)]
    fn or(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| f32::from_bits(a[i].to_bits() | b[i].to_bits()))
    }
    #[inline(always)]
    fn table(self, numbers: &[f32; 16]) -> [f32; 16] {
        *numbers
    }
    #[inline(always)]
    fn lookup(self, table: [f32; 16], ix: [u32; 8]) -> [f32; 8] {
        ix.map(|ix| table[(ix & 15) as usize])
    }
    #[inline(always)]
    fn to_float(self, v: [u32; 8]) -> [f32; 8] {
        v.map(|v| v as i32 as f32)
    }

    #[inline(always)]
    fn unpack(self, bits: u32) -> u32 {
        bits
    }
    #[inline(always)]
    unsafe fn unpack8_words(self, p: *const u8, bits: u32) -> [u32; 8] {
        // SAFETY: the caller's.
        let stream = u64::from_le_bytes(unsafe { p.cast::<[u8; 8]>().read_unaligned() });
        let mask = (1 << bits) - 1;
        std::array::from_fn(|i| ((stream >> (i as u32 * bits)) & mask) as u32)
    }
}
