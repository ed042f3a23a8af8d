//! Rows whose codes are widened, scale and bias included, before they meet x: small floats, and GGUF's blocks.
// Counted loops over arrays of registers: iterators there hinder unrolling.
#![allow(clippy::needless_range_loop)]

use super::{Source, ahead};
use crate::cpu::simd::unpack::{KTools, SmallTools, eight_bytes};
use crate::cpu::simd::{LANES, Simd};
use crate::cpu::weight::{SmallFloat, k_scale};
use ingot_ir::weight::KFormat;

/// # Safety
/// As [`super::rows`].
#[inline(always)]
pub(super) unsafe fn small_rows<S: Simd, const M: usize, const R: usize>(
    s: S,
    source: &Source<M>,
    small: SmallFloat,
    i: usize,
) -> [[f32; M]; R] {
    let (group, bits) = (small.group(), small.bits());
    let n_groups = source.n_cols / group;
    let ahead = ahead::<R>(source.row_bytes);
    let tools = SmallTools::new(s, small);
    let mut acc = [[s.splat(0.0); M]; R];
    // SAFETY: the caller's; g < n_groups, so groups and scales exist.
    unsafe {
        let codes = source.codes.add(i * source.row_bytes);
        let scales = source.scales.as_ptr().add(i * n_groups);
        for g in 0..n_groups {
            let at = g * group * bits / 8;
            for r in 0..R {
                let row = codes.add(r * source.row_bytes);
                if at.is_multiple_of(64) {
                    s.prefetch(row.wrapping_add(at + ahead));
                }
                let bytes = std::slice::from_raw_parts(row, source.row_bytes);
                let mut sums = [s.splat(0.0); M];
                for eight in 0..group / LANES {
                    let mut copy = [0; 8];
                    let w = tools.eight(s, eight_bytes(bytes, at + eight * bits, &mut copy));
                    for m in 0..M {
                        sums[m] = s.fma(w, s.load(source.x[m].add(g * group + LANES * eight)), sums[m]);
                    }
                }
                let scale = s.splat(small.scale(*scales.add(r * n_groups + g)));
                for m in 0..M {
                    acc[r][m] = s.fma(sums[m], scale, acc[r][m]);
                }
            }
        }
    }
    let mut y = [[0.0f32; M]; R];
    for r in 0..R {
        let factor = source.segment.factor(source.first_row + i + r);
        for m in 0..M {
            y[r][m] = s.sum(acc[r][m]) * factor;
        }
    }
    y
}

/// # Safety
/// As [`super::rows`].
#[inline(always)]
pub(super) unsafe fn k_rows<S: Simd, const M: usize, const R: usize>(
    s: S,
    source: &Source<M>,
    k: KFormat,
    i: usize,
) -> [[f32; M]; R] {
    let (group, bits) = (k.group() as usize, k.bits() as usize);
    let n_groups = source.n_cols / group;
    let header_row_bytes = source.n_cols / k.block() as usize * k.header_bytes() as usize;
    let ahead = ahead::<R>(source.row_bytes);
    let tools = KTools::new(s, k);
    let mut acc = [[s.splat(0.0); M]; R];
    // SAFETY: the caller's; g < n_groups, so groups and headers exist.
    unsafe {
        let codes = source.codes.add(i * source.row_bytes);
        for g in 0..n_groups {
            let at = g * group * bits / 8;
            for r in 0..R {
                let row = codes.add(r * source.row_bytes);
                if at.is_multiple_of(64) {
                    s.prefetch(row.wrapping_add(at + ahead));
                }
                let bytes = std::slice::from_raw_parts(row, source.row_bytes);
                let (scale, bias) = k_scale(k, &source.scales[(i + r) * header_row_bytes..][..header_row_bytes], g);
                let (scale, bias) = (s.splat(scale), s.splat(bias));
                for eight in 0..group / LANES {
                    let mut copy = [0; 8];
                    let numbers = tools.eight(s, eight_bytes(bytes, at + eight * bits, &mut copy));
                    let w = s.fma(numbers, scale, bias);
                    for m in 0..M {
                        acc[r][m] = s.fma(w, s.load(source.x[m].add(g * group + LANES * eight)), acc[r][m]);
                    }
                }
            }
        }
    }
    let mut y = [[0.0f32; M]; R];
    for r in 0..R {
        for m in 0..M {
            y[r][m] = s.sum(acc[r][m]);
        }
    }
    y
}
