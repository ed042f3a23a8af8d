//! Weight rows times rounded rows of x.
//!
//! Few rows of x: codes are unpacked in registers, each weight byte is read once. Many: eight weight rows at a time
//! are unpacked to bytes, which stay in the first cache while all rows of x pass over them, four at a time.
// Counted loops over arrays of registers: iterators there hinder unrolling.
#![allow(clippy::needless_range_loop)]

use super::super::matvec::scales8;
use super::super::{LANES, Simd};
use super::round::{Block, n_blocks};
use super::{Dot, DotOp, Int8Level, Pair};
use crate::cpu::weight::{FloatType, Format, Segment};

/// Rows of x that share an unpacked code.
const TILE: usize = 4;
/// Weight rows that are unpacked together.
pub(crate) const PANEL_ROWS: usize = 8;

/// Rows of x as a format's product reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounded<'a> {
    pub(crate) n_rows: usize,
    /// [`n_blocks`] blocks a row, in the format's order, `block_stride` from row to row.
    pub(crate) blocks: &'a [Block],
    pub(crate) block_stride: usize,
    /// Sums of rounded x over the format's groups, their number rounded up to 8 with zeros, `sum_stride` from row to
    /// row.
    pub(crate) sums: &'a [f32],
    pub(crate) sum_stride: usize,
}

/// out[m * stride + i * step] = weight row (row + i) . x[m] for i in 0..n_rows and every row m of x.
pub(crate) struct Product<'a> {
    /// Of an affine format.
    pub(crate) segment: &'a Segment<'a>,
    pub(crate) n_cols: usize,
    pub(crate) row: usize,
    pub(crate) n_rows: usize,
    pub(crate) x: Rounded<'a>,
    /// [`panel_len`] bytes.
    pub(crate) panel: &'a mut [u8],
    pub(crate) out: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) step: usize,
}

/// Bytes that a product of `n_x` rows of `n_cols` columns needs for unpacked codes.
pub(crate) fn panel_len(n_cols: usize, n_x: usize) -> usize {
    if n_x <= TILE { 0 } else { PANEL_ROWS * n_blocks(n_cols) * 64 }
}

impl Product<'_> {
    /// Computes with the given instructions.
    pub(crate) fn run_with(self, level: Int8Level) {
        match self.segment.format {
            Format::Affine { bits: 4, .. } => level.run(Kernel::<NIBBLES>(self)),
            Format::Affine { bits: 8, .. } => level.run(Kernel::<BYTES>(self)),
            Format::Affine { .. } => level.run(Kernel::<ANY_BITS>(self)),
            _ => panic!("a product in whole numbers of a matrix that is not affine"),
        }
    }
}

const NIBBLES: u8 = 0;
const BYTES: u8 = 1;
const ANY_BITS: u8 = 2;
/// Codes unpacked before, each a byte below 64.
const UNPACKED: u8 = 3;
/// The same, below 256.
const UNPACKED_BYTES: u8 = 4;

struct Kernel<'a, const KIND: u8>(Product<'a>);

/// Rows of codes with their scales, bounds checked beforehand.
#[derive(Clone, Copy)]
struct Rows<'a> {
    codes: *const u8,
    row_bytes: usize,
    /// Readable bytes from `codes` on.
    n_bytes: usize,
    scales: &'a [u8],
    biases: &'a [u8],
    scale: FloatType,
    bits: u32,
    group: usize,
    n_cols: usize,
}

impl<const KIND: u8> DotOp for Kernel<'_, KIND> {
    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Product { segment, n_cols, row, n_rows, x, panel, out, stride, step } = self.0;
        let Format::Affine { bits, group, scale } = segment.format else { return };
        let n_groups = n_cols / group;
        let (row_bytes, scale_bytes) = (segment.format.row_bytes(n_cols), n_groups * scale.size_bytes());
        assert!(row + n_rows <= segment.n_rows, "rows {row}+{n_rows} of a segment of {}", segment.n_rows);
        assert!(segment.codes.len() >= (row + n_rows) * row_bytes, "codes shorter than their rows");
        let scales_end = (row + n_rows) * scale_bytes;
        assert!(segment.scales.len() >= scales_end && segment.biases.len() >= scales_end, "scales too short");
        if n_rows == 0 || x.n_rows == 0 {
            return;
        }
        assert!((x.n_rows - 1) * stride + (n_rows - 1) * step < out.len(), "output too short");
        assert!(x.blocks.len() >= (x.n_rows - 1) * x.block_stride + n_blocks(n_cols), "x shorter than a weight row");
        let n_sums = (x.n_rows - 1) * x.sum_stride + n_groups.next_multiple_of(LANES);
        assert!(x.sums.len() >= n_sums, "group sums too short");
        assert!(panel.len() >= panel_len(n_cols, x.n_rows), "memory for unpacked codes too short");
        let rows = |row: usize| Rows {
            codes: segment.codes[row * row_bytes..].as_ptr(),
            row_bytes,
            n_bytes: segment.codes.len() - row * row_bytes,
            scales: &segment.scales[row * scale_bytes..],
            biases: &segment.biases[row * scale_bytes..],
            scale,
            bits,
            group,
            n_cols,
        };
        // SAFETY: the rows, x, sums and results are as long as asserted.
        unsafe {
            if x.n_rows <= TILE {
                return few::<D, KIND>(d, &rows(row), n_rows, &x, &mut Out { values: out, stride, step });
            }
            for i in (0..n_rows).step_by(PANEL_ROWS) {
                let n = PANEL_ROWS.min(n_rows - i);
                let stored = rows(row + i);
                let unpacked = unpack::<D, KIND>(d, &stored, n, panel);
                let out = &mut Out { values: &mut out[i * step..], stride, step };
                if KIND == BYTES {
                    many::<D, UNPACKED_BYTES>(d, &unpacked, n, &x, out);
                } else {
                    many::<D, UNPACKED>(d, &unpacked, n, &x, out);
                }
            }
        }
    }
}

/// # Safety
/// `n_rows` rows, and everything of x and out as the assertions above say.
#[inline(always)]
unsafe fn few<D: Dot, const KIND: u8>(d: D, rows: &Rows, n_rows: usize, x: &Rounded, out: &mut Out) {
    let mut i = 0;
    // SAFETY: the caller's.
    unsafe {
        while x.n_rows == 1 && i + 4 <= n_rows {
            out.put(tile::<D, KIND, 1, 4>(d, rows, i, x, 0), i, 0);
            i += 4;
        }
        while i < n_rows {
            tiles::<D, KIND>(d, rows, i, x, 0, out);
            i += 1;
        }
    }
}

/// # Safety
/// As [`few`].
#[inline(always)]
unsafe fn many<D: Dot, const KIND: u8>(d: D, rows: &Rows, n_rows: usize, x: &Rounded, out: &mut Out) {
    for m in (0..x.n_rows).step_by(TILE) {
        for i in 0..n_rows {
            // SAFETY: the caller's.
            unsafe { tiles::<D, KIND>(d, rows, i, x, m, out) };
        }
    }
}

/// Weight row `i` times up to four rows of x from `m`. Several weight rows at once would gain nothing: x is an operand
/// in memory, and there are accumulators enough.
///
/// # Safety
/// As [`few`].
#[inline(always)]
unsafe fn tiles<D: Dot, const KIND: u8>(d: D, rows: &Rows, i: usize, x: &Rounded, m: usize, out: &mut Out) {
    let n = TILE.min(x.n_rows - m);
    let mut at = m;
    // SAFETY: the caller's.
    unsafe {
        if n == TILE {
            return out.put(tile::<D, KIND, TILE, 1>(d, rows, i, x, m), i, m);
        }
        if n >= 2 {
            out.put(tile::<D, KIND, 2, 1>(d, rows, i, x, at), i, at);
            at += 2;
        }
        if at < m + n {
            out.put(tile::<D, KIND, 1, 1>(d, rows, i, x, at), i, at);
        }
    }
}

/// Where results go.
struct Out<'a> {
    values: &'a mut [f32],
    stride: usize,
    step: usize,
}

impl Out<'_> {
    /// Results of weight rows from `i` and rows of x from `m`.
    #[inline(always)]
    fn put<const M: usize, const R: usize>(&mut self, y: [[f32; M]; R], i: usize, m: usize) {
        for (r, y) in y.iter().enumerate() {
            for (at, &y) in y.iter().enumerate() {
                self.values[(m + at) * self.stride + (i + r) * self.step] = y;
            }
        }
    }
}

/// How far ahead of the codes in use to fetch; see the matrix-vector kernels.
#[inline(always)]
fn ahead<const R: usize>(row_bytes: usize) -> usize {
    if row_bytes <= 4096 { R * row_bytes } else { 1024 }
}

/// # Safety
/// As [`few`]; rows i..i + R and rows m..m + M of x exist.
#[inline(always)]
unsafe fn tile<D: Dot, const KIND: u8, const M: usize, const R: usize>(
    d: D,
    rows: &Rows,
    i: usize,
    x: &Rounded,
    m: usize,
) -> [[f32; M]; R] {
    let s = d.simd();
    let Rows { group, n_cols, scale, .. } = *rows;
    let (n_groups, n_blocks) = (n_cols / group, n_blocks(n_cols));
    let codes = Codes::<D, KIND>::new(d, rows);
    let ahead = ahead::<R>(rows.row_bytes);
    let is_packed = KIND != UNPACKED && KIND != UNPACKED_BYTES;
    let mut acc = [[s.splat(0.0); M]; R];
    // SAFETY: the caller's; groups and blocks stay below their numbers.
    unsafe {
        let mut blocks = [std::ptr::null::<Block>(); M];
        let mut sums = [std::ptr::null::<f32>(); M];
        for at in 0..M {
            blocks[at] = x.blocks.as_ptr().add((m + at) * x.block_stride);
            sums[at] = x.sums.as_ptr().add((m + at) * x.sum_stride);
        }
        let scale_row_bytes = n_groups * scale.size_bytes();
        let mut block = 0;
        for g in (0..n_groups).step_by(LANES) {
            let n = LANES.min(n_groups - g);
            let mut factors = [[0.0f32; LANES]; R];
            for r in 0..R {
                let at = (i + r) * scale_row_bytes + g * scale.size_bytes();
                s.store(factors[r].as_mut_ptr(), scales8(s, scale, rows.scales, at, n));
                let biases = scales8(s, scale, rows.biases, at, n);
                for at in 0..M {
                    acc[r][at] = s.fma(biases, s.load(sums[at].add(g)), acc[r][at]);
                }
            }
            let first = block;
            let end = n_blocks.min((g + LANES) * group / 64);
            while block < end {
                for r in 0..R {
                    let row = rows.codes.add((i + r) * rows.row_bytes);
                    if is_packed {
                        s.prefetch(row.wrapping_add(ahead + block * 8 * codes.bits));
                    }
                    let codes = codes.load((i + r) * rows.row_bytes, block);
                    let scale = match group {
                        32 => d.halves(factors[r][2 * (block - first)], factors[r][2 * (block - first) + 1]),
                        64 => s.splat(factors[r][block - first]),
                        _ => s.splat(factors[r][(block - first) / 2]),
                    };
                    for at in 0..M {
                        let x = blocks[at].add(block);
                        let q = d.load((&raw const (*x).q).cast());
                        let sum = match KIND {
                            BYTES | UNPACKED_BYTES => d.dot::<true>(codes, q),
                            _ => d.dot::<false>(codes, q),
                        };
                        let product = s.mul(sum, s.load((&raw const (*x).d).cast()));
                        acc[r][at] = s.fma(product, scale, acc[r][at]);
                    }
                }
                block += 1;
            }
        }
    }
    let mut y = [[0.0f32; M]; R];
    for r in 0..R {
        for at in 0..M {
            y[r][at] = s.sum(acc[r][at]);
        }
    }
    y
}

/// Reads blocks of 64 codes.
struct Codes<'a, D: Dot, const KIND: u8> {
    d: D,
    rows: &'a Rows<'a>,
    bits: usize,
    /// Whole blocks a row; one more is half a block.
    n_whole: usize,
    unpacker: D::Unpack,
}

impl<'a, D: Dot, const KIND: u8> Codes<'a, D, KIND> {
    #[inline(always)]
    fn new(d: D, rows: &'a Rows<'a>) -> Self {
        let (bits, unpacker) = match KIND {
            NIBBLES => (4, 4),
            ANY_BITS => (rows.bits as usize, rows.bits),
            _ => (8, 4),
        };
        Self { d, rows, bits, n_whole: rows.n_cols / 64, unpacker: d.unpacker(unpacker) }
    }

    /// Block `block` of the row that begins at byte `at`.
    ///
    /// # Safety
    /// There is such a row, and it has the block.
    #[inline(always)]
    unsafe fn load(&self, at: usize, block: usize) -> Pair<D::B> {
        let at = at + block * 8 * self.bits;
        // SAFETY: the caller's: unpacked rows have whole blocks, others have `n_whole` of them, and where there may be
        // less than is read, a copy is read.
        unsafe {
            let p = self.rows.codes.add(at);
            if KIND == UNPACKED || KIND == UNPACKED_BYTES {
                return self.d.load(p);
            }
            let is_half = block == self.n_whole;
            if is_half || (KIND == ANY_BITS && at + 6 * self.bits + 16 > self.rows.n_bytes) {
                let mut copy = [0u8; 64];
                let n = if is_half { 4 * self.bits } else { 8 * self.bits };
                std::ptr::copy_nonoverlapping(p, copy.as_mut_ptr(), n);
                return self.read(copy.as_ptr());
            }
            self.read(p)
        }
    }

    /// # Safety
    /// What the kind reads is readable at `p`.
    #[inline(always)]
    unsafe fn read(&self, p: *const u8) -> Pair<D::B> {
        // SAFETY: the caller's.
        unsafe {
            match KIND {
                NIBBLES => self.d.nibbles(p),
                BYTES => self.d.bytes(p),
                _ => self.d.unpack(p, self.unpacker),
            }
        }
    }
}

/// The first `n` rows with their codes as bytes in `panel`, in the order in which they are multiplied.
///
/// # Safety
/// As [`few`], and `panel` holds `n` rows of whole blocks.
#[inline(always)]
unsafe fn unpack<'a, D: Dot, const KIND: u8>(d: D, rows: &Rows<'a>, n: usize, panel: &'a mut [u8]) -> Rows<'a> {
    let n_blocks = n_blocks(rows.n_cols);
    let codes = Codes::<D, KIND>::new(d, rows);
    for r in 0..n {
        for block in 0..n_blocks {
            // SAFETY: the caller's.
            unsafe {
                let to = panel.as_mut_ptr().add((r * n_blocks + block) * 64);
                d.store(to, codes.load(r * rows.row_bytes, block));
            }
        }
    }
    Rows { codes: panel.as_ptr(), row_bytes: n_blocks * 64, n_bytes: panel.len(), ..*rows }
}

#[cfg(test)]
mod tests;
