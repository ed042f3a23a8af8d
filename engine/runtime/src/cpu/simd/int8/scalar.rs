//! Products of bytes as arrays, for processors without a module of their own.

use super::super::scalar::Scalar;
use super::{Dot, Pair};

#[derive(Clone, Copy)]
pub(super) struct Scalar8;

type Bytes = [u8; 32];

/// Natural order to halves in their places.
fn places(natural: [u8; 64]) -> Pair<Bytes> {
    // Byte i of vector v: 16 v columns into half i / 16.
    std::array::from_fn(|v| std::array::from_fn(|i| natural[i / 16 * 32 + 16 * v + i % 16]))
}

// SAFETY of every block below: pointers are the callers' to vouch for.
impl Dot for Scalar8 {
    type S = Scalar;
    type B = Bytes;
    type Unpack = u32;

    #[inline(always)]
    fn simd(self) -> Scalar {
        Scalar
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> Pair<Bytes> {
        unsafe { p.cast::<Pair<Bytes>>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u8, v: Pair<Bytes>) {
        unsafe { p.cast::<Pair<Bytes>>().write_unaligned(v) };
    }
    #[inline(always)]
    unsafe fn nibbles(self, p: *const u8) -> Pair<Bytes> {
        let bytes = unsafe { p.cast::<Bytes>().read_unaligned() };
        [bytes.map(|b| b & 15), bytes.map(|b| b >> 4)]
    }
    #[inline(always)]
    unsafe fn bytes(self, p: *const u8) -> Pair<Bytes> {
        places(unsafe { p.cast::<[u8; 64]>().read_unaligned() })
    }
    #[inline(always)]
    fn unpacker(self, bits: u32) -> u32 {
        bits
    }
    // Calls keep the many kernels made of these small; here they cost little.
    #[inline(never)]
    unsafe fn unpack(self, p: *const u8, bits: u32) -> Pair<Bytes> {
        let mut codes = [0; 64];
        for (i, codes) in codes.chunks_exact_mut(16).enumerate() {
            // 16 codes need at most 12 bytes.
            let stream = unsafe { p.add(2 * bits as usize * i).cast::<[u8; 16]>().read_unaligned() };
            let stream = u128::from_le_bytes(stream);
            for (c, code) in codes.iter_mut().enumerate() {
                *code = (stream >> (c as u32 * bits)) as u8 & ((1 << bits) - 1);
            }
        }
        places(codes)
    }
    #[inline(never)]
    fn dot<const WIDE: bool>(self, codes: Pair<Bytes>, q: Pair<Bytes>) -> [f32; 8] {
        std::array::from_fn(|lane| {
            let product = |v: usize, i: usize| i32::from(codes[v][i]) * i32::from(q[v][i].cast_signed());
            let sum: i32 = (4 * lane..4 * lane + 4).map(|i| product(0, i) + product(1, i)).sum();
            sum as f32
        })
    }
    #[inline(always)]
    fn halves(self, low: f32, high: f32) -> [f32; 8] {
        [low, low, low, low, high, high, high, high]
    }
}
