//! Register-blocked product of f32 rows with a packed panel of 16 columns.
// Counted loops over arrays of registers: iterators there hinder unrolling.
#![allow(clippy::needless_range_loop)]

use super::unpack::Unpack;
use super::{LANES, Op, Simd};
use crate::cpu::weight::Weight;

/// Columns of a panel: two vectors.
pub(crate) const PANEL: usize = 2 * LANES;
/// Rows of a tile: with two vectors a row, its 12 accumulators fill the 16 registers of AVX2.
pub(crate) const TILE_ROWS: usize = 6;

/// c[r * c_stride + n] (+)= sum over k < depth of a[r][k] * b[k * b_stride + n], n in 0..16, for any number of rows.
///
/// # Safety
/// `depth` values at each `a`, 16 at every b row, 16 at every c row; nobody else touches c.
#[inline(always)]
pub(crate) unsafe fn rows<S: Simd, const ADD: bool>(
    s: S,
    a: &[*const f32],
    depth: usize,
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
) {
    let mut r = 0;
    // SAFETY: the caller's.
    unsafe {
        while r + TILE_ROWS <= a.len() {
            tile::<S, ADD, TILE_ROWS>(s, a.as_ptr().add(r), depth, b, b_stride, c.add(r * c_stride), c_stride);
            r += TILE_ROWS;
        }
        let (a_rest, c_rest) = (a.as_ptr().add(r), c.add(r * c_stride));
        match a.len() - r {
            5 => tile::<S, ADD, 5>(s, a_rest, depth, b, b_stride, c_rest, c_stride),
            4 => tile::<S, ADD, 4>(s, a_rest, depth, b, b_stride, c_rest, c_stride),
            3 => tile::<S, ADD, 3>(s, a_rest, depth, b, b_stride, c_rest, c_stride),
            2 => tile::<S, ADD, 2>(s, a_rest, depth, b, b_stride, c_rest, c_stride),
            1 => tile::<S, ADD, 1>(s, a_rest, depth, b, b_stride, c_rest, c_stride),
            _ => {}
        }
    }
}

/// # Safety
/// As [`rows`], with R rows at `a`.
#[inline(always)]
unsafe fn tile<S: Simd, const ADD: bool, const R: usize>(
    s: S,
    a: *const *const f32,
    depth: usize,
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let a: [*const f32; R] = a.cast::<[*const f32; R]>().read();
        let mut acc = [[s.splat(0.0); 2]; R];
        let mut b = b;
        for k in 0..depth {
            let (b0, b1) = (s.load(b), s.load(b.add(LANES)));
            for r in 0..R {
                let a = s.splat(*a[r].add(k));
                acc[r][0] = s.fma(a, b0, acc[r][0]);
                acc[r][1] = s.fma(a, b1, acc[r][1]);
            }
            b = b.add(b_stride);
        }
        for r in 0..R {
            for h in 0..2 {
                let c = c.add(r * c_stride + h * LANES);
                let sum = if ADD { s.add(s.load(c), acc[r][h]) } else { acc[r][h] };
                s.store(c, sum);
            }
        }
    }
}

/// dst[k * 16 + n] = src[n * stride + k] for 16 rows of `depth` values.
///
/// # Safety
/// The rows are readable.
#[inline(always)]
pub(crate) unsafe fn pack<S: Simd>(s: S, src: *const f32, stride: usize, depth: usize, dst: &mut [f32]) {
    assert!(dst.len() >= depth * PANEL, "a panel's memory is too short");
    let n_vector = depth / LANES * LANES;
    // SAFETY: the caller's, and the assertion above.
    unsafe {
        for half in [0, LANES] {
            let mut k = 0;
            while k < n_vector {
                let dst = dst.as_mut_ptr().add(k * PANEL + half);
                s.transpose8(src.add(half * stride + k), stride, dst, PANEL);
                k += LANES;
            }
        }
        for k in n_vector..depth {
            for n in 0..PANEL {
                dst[k * PANEL + n] = *src.add(n * stride + k);
            }
        }
    }
}

/// Depth of a packed panel: 16 KiB, so that it stays in the first cache while all rows of x pass over it.
pub(crate) const DEPTH: usize = 256;
/// Scratch of [`Panel`]: rows as decoded, and packed.
pub(crate) const PANEL_SCRATCH: usize = 2 * DEPTH * PANEL;

/// c[r * 16 + n] = x[r] . weight row (row + n), for n in 0..16; columns beyond the weight's last row are 0.
pub(crate) struct Panel<'a> {
    pub(crate) weight: &'a Weight<'a>,
    pub(crate) row: usize,
    /// Start of each row of x: `n_cols` values.
    pub(crate) x: &'a [&'a [f32]],
    /// [`PANEL_SCRATCH`] values.
    pub(crate) scratch: &'a mut [f32],
    pub(crate) c: &'a mut [f32],
}

/// Rows of x taken at a time, so that a depth of them stays in the second cache.
const X_ROWS: usize = 192;

impl Op for Panel<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Panel { weight, row, x, scratch, c } = self;
        let n_cols = weight.n_cols();
        let n_panel = PANEL.min(weight.n_rows() - row);
        assert!(c.len() >= x.len() * PANEL, "a panel's result is too short");
        assert!(x.iter().all(|x| x.len() >= n_cols), "x shorter than a weight row");
        let (decoded, packed) = scratch.split_at_mut(DEPTH * PANEL);
        decoded[n_panel * DEPTH..].fill(0.0);
        for k in (0..n_cols).step_by(DEPTH) {
            let depth = DEPTH.min(n_cols - k);
            for n in 0..n_panel {
                let (segment, row) = weight.locate(row + n);
                let out = &mut decoded[n * DEPTH..n * DEPTH + depth];
                Unpack { segment, n_cols, row, col: k, out }.run(s);
            }
            let mut at = 0;
            // SAFETY: 16 rows of DEPTH values; x rows have n_cols values, c 16 a row, both asserted; c is ours alone.
            unsafe {
                pack(s, decoded.as_ptr(), DEPTH, depth, packed);
                for x in x.chunks(X_ROWS) {
                    let mut a = [std::ptr::null(); X_ROWS];
                    for (a, x) in a.iter_mut().zip(x) {
                        *a = x.as_ptr().add(k);
                    }
                    let (a, c) = (&a[..x.len()], c.as_mut_ptr().add(at * PANEL));
                    if k == 0 {
                        rows::<S, false>(s, a, depth, packed.as_ptr(), PANEL, c, PANEL);
                    } else {
                        rows::<S, true>(s, a, depth, packed.as_ptr(), PANEL, c, PANEL);
                    }
                    at += x.len();
                }
            }
        }
    }
}
