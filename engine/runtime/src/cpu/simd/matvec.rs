//! Weight rows times a few rows of x, each weight byte read once.
//!
//! An affine row is y = sum over groups of scale * (sum of code * x) + bias * (sum of x), so codes are never made into
//! weights, and the sums of x are shared by all rows ([`Order::prepare`] and [`group_sums`]). 4- and 8-bit codes are masked where they stand in
//! their word, not shifted down: the code i places up is 2^(bits i) times too large, exactly, and x is stored that
//! much smaller. That leaves three instructions (and, convert, multiply-add) for eight weights.
// Counted loops over arrays of registers: iterators there hinder unrolling.
#![allow(clippy::needless_range_loop)]

use super::unpack::{eight_bytes, load_floats};
use super::{LANES, Op, Simd};
use crate::cpu::weight::{FloatType, Format, Segment, SmallFloat};
use ingot_ir::weight::KFormat;

mod blocks;

use blocks::{k_rows, small_rows};

/// Most rows of x that one pass takes.
pub(crate) const MAX_ROWS: usize = 4;

/// In which order a format's kernel reads x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Natural,
    /// For 4-bit codes, blocks of 32 columns: vector i holds nibble i of words 0..4, then nibble i + 4 of words 0..4.
    Nibbles,
    /// For 8-bit codes, blocks of 32 columns: vector i holds byte i of words 0..8.
    Bytes,
}

impl Order {
    pub(crate) fn of(format: Format) -> Self {
        match format {
            Format::Affine { bits: 4, .. } => Order::Nibbles,
            Format::Affine { bits: 8, .. } => Order::Bytes,
            _ => Order::Natural,
        }
    }

    /// Brings x into this order, scaled as the masked codes need it. `x` has a multiple of 32 elements unless the
    /// order is natural.
    pub(crate) fn prepare(self, x: &[f32], out: &mut [f32]) {
        match self {
            Order::Natural => out.copy_from_slice(x),
            Order::Nibbles => {
                const SCALE: [f32; 8] =
                    [1.0, 1.0 / 16.0, 1.0 / 256.0, 1.0, 1.0 / 65_536.0, 1.0 / 1_048_576.0, 1.0 / 16_777_216.0, 1.0];
                for (x, out) in x.chunks_exact(32).zip(out.chunks_exact_mut(32)) {
                    for i in 0..4 {
                        for word in 0..4 {
                            out[8 * i + word] = x[8 * word + i] * SCALE[i];
                            out[8 * i + 4 + word] = x[8 * word + i + 4] * SCALE[i + 4];
                        }
                    }
                }
            }
            Order::Bytes => {
                const SCALE: [f32; 4] = [1.0, 1.0 / 256.0, 1.0 / 65_536.0, 1.0];
                for (x, out) in x.chunks_exact(32).zip(out.chunks_exact_mut(32)) {
                    for i in 0..4 {
                        for word in 0..8 {
                            out[8 * i + word] = x[4 * word + i] * SCALE[i];
                        }
                    }
                }
            }
        }
    }
}

/// Sums of x over groups of `group` columns; what is left of `out` becomes 0.
pub(crate) fn group_sums(x: &[f32], group: usize, out: &mut [f32]) {
    out.fill(0.0);
    for (x, out) in x.chunks_exact(group).zip(out) {
        let mut lanes = [0.0f32; LANES];
        for x in x.chunks_exact(LANES) {
            for (lane, x) in lanes.iter_mut().zip(x) {
                *lane += x;
            }
        }
        *out = lanes.iter().sum();
    }
}

/// One row of x as a kernel wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    /// n_cols values in the format's [`Order`].
    pub(crate) x: &'a [f32],
    /// Sums over the format's groups, at least n_groups rounded up to 8, zeros at the end; unused by floats.
    pub(crate) sums: &'a [f32],
}

/// out[m * stride + i * step] = weight row (row + i) . x[m] for i in 0..n_rows and every input m.
pub(crate) struct Matvec<'a> {
    pub(crate) segment: &'a Segment<'a>,
    pub(crate) n_cols: usize,
    pub(crate) row: usize,
    pub(crate) n_rows: usize,
    /// One to [`MAX_ROWS`].
    pub(crate) inputs: &'a [Input<'a>],
    pub(crate) out: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) step: usize,
}

impl Matvec<'_> {
    /// Computes with the best instruction set.
    pub(crate) fn run(self) {
        self.run_with(Best);
    }

    fn run_with(self, how: impl Runner) {
        match self.inputs.len() {
            0 => {}
            1 => self.run_m::<1>(how),
            2 => self.run_m::<2>(how),
            3 => self.run_m::<3>(how),
            4 => self.run_m::<4>(how),
            n => panic!("{n} rows of x in one matrix-vector pass"),
        }
    }

    fn run_m<const M: usize>(self, how: impl Runner) {
        match self.segment.format {
            Format::Float(FloatType::F32) => how.run(Kernel::<F32, M>(self)),
            Format::Float(FloatType::F16) => how.run(Kernel::<F16, M>(self)),
            Format::Float(FloatType::Bf16) => how.run(Kernel::<BF16, M>(self)),
            Format::Affine { bits: 4, .. } => how.run(Kernel::<NIBBLES, M>(self)),
            Format::Affine { bits: 8, .. } => how.run(Kernel::<BYTES, M>(self)),
            Format::Affine { .. } => how.run(Kernel::<ANY_BITS, M>(self)),
            Format::SmallFloat(SmallFloat::Mxfp4) => how.run(Kernel::<MXFP4, M>(self)),
            Format::SmallFloat(SmallFloat::Mxfp8) => how.run(Kernel::<MXFP8, M>(self)),
            Format::SmallFloat(SmallFloat::Nvfp4) => how.run(Kernel::<NVFP4, M>(self)),
            Format::K(KFormat::Q4K) => how.run(Kernel::<Q4_K, M>(self)),
            Format::K(KFormat::Q6K) => how.run(Kernel::<Q6_K, M>(self)),
            Format::K(_) => how.run(Kernel::<OTHER_K, M>(self)),
        }
    }
}

/// With which instruction set.
trait Runner {
    fn run<O: Op>(&self, op: O) -> O::Out;
}

struct Best;

impl Runner for Best {
    fn run<O: Op>(&self, op: O) -> O::Out {
        super::dispatch(op)
    }
}

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;
const NIBBLES: u8 = 3;
const BYTES: u8 = 4;
const ANY_BITS: u8 = 5;
const MXFP4: u8 = 6;
const MXFP8: u8 = 7;
const NVFP4: u8 = 8;
// The usual ones have loops of their own, the others share one.
const Q4_K: u8 = 9;
const Q6_K: u8 = 10;
const OTHER_K: u8 = 11;

struct Kernel<'a, const KIND: u8, const M: usize>(Matvec<'a>);

/// Rows of one segment as pointers, bounds checked beforehand.
struct Source<'a, const M: usize> {
    codes: *const u8,
    row_bytes: usize,
    scales: &'a [u8],
    biases: &'a [u8],
    scale: FloatType,
    bits: u32,
    group: usize,
    n_cols: usize,
    x: [*const f32; M],
    sums: [*const f32; M],
    /// Row 0 here, in the segment.
    segment: &'a Segment<'a>,
    first_row: usize,
}

impl<const M: usize> Source<'_, M> {
    /// The format of GGUF's that the segment has.
    #[inline(always)]
    fn k(&self) -> KFormat {
        match self.segment.format {
            Format::K(k) => k,
            other => unreachable!("{other:?} has a loop of its own"),
        }
    }
}

impl<const KIND: u8, const M: usize> Op for Kernel<'_, KIND, M> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Matvec { segment, n_cols, row, n_rows, inputs, out, stride, step } = self.0;
        let format = segment.format;
        let (bits, group, scale) = match format {
            Format::Float(float) => (0, 1, float),
            Format::Affine { bits, group, scale } => (bits, group, scale),
            Format::SmallFloat(small) => (small.bits() as u32, small.group(), FloatType::F32),
            Format::K(k) => (k.bits(), k.group() as usize, FloatType::F32),
        };
        let n_groups = format.n_groups(n_cols);
        let (row_bytes, (scale_bytes, bias_bytes)) = (format.row_bytes(n_cols), format.scale_bytes(n_cols));
        assert!(row + n_rows <= segment.n_rows, "rows {row}+{n_rows} of a segment of {}", segment.n_rows);
        assert!(segment.codes.len() >= (row + n_rows) * row_bytes, "codes shorter than their rows");
        assert!(segment.scales.len() >= (row + n_rows) * scale_bytes, "scales too short");
        assert!(segment.biases.len() >= (row + n_rows) * bias_bytes, "biases too short");
        assert!(n_rows == 0 || (M - 1) * stride + (n_rows - 1) * step < out.len(), "output too short");
        let mut source = Source {
            codes: segment.codes[row * row_bytes..].as_ptr(),
            row_bytes,
            scales: &segment.scales[row * scale_bytes..],
            biases: &segment.biases[row * bias_bytes..],
            scale,
            bits,
            group,
            n_cols,
            x: [std::ptr::null(); M],
            sums: [std::ptr::null(); M],
            segment,
            first_row: row,
        };
        for m in 0..M {
            assert!(inputs[m].x.len() >= n_cols, "x shorter than a weight row");
            let n_sums = if bias_bytes > 0 { n_groups.next_multiple_of(LANES) } else { 0 };
            assert!(inputs[m].sums.len() >= n_sums, "group sums too short");
            source.x[m] = inputs[m].x.as_ptr();
            source.sums[m] = inputs[m].sums.as_ptr();
        }
        let mut i = 0;
        // SAFETY: rows row..row + n_rows of codes, scales and biases, x and the sums are as long as asserted above,
        // and i + R <= n_rows.
        unsafe {
            if M == 1 {
                while i + 4 <= n_rows {
                    emit(rows::<S, KIND, M, 4>(s, &source, i), out, i, stride, step);
                    i += 4;
                }
            }
            while i + 2 <= n_rows {
                emit(rows::<S, KIND, M, 2>(s, &source, i), out, i, stride, step);
                i += 2;
            }
            if i < n_rows {
                emit(rows::<S, KIND, M, 1>(s, &source, i), out, i, stride, step);
            }
        }
    }
}

#[inline(always)]
fn emit<const M: usize, const R: usize>(y: [[f32; M]; R], out: &mut [f32], i: usize, stride: usize, step: usize) {
    for (r, y) in y.iter().enumerate() {
        for (m, &y) in y.iter().enumerate() {
            out[m * stride + (i + r) * step] = y;
        }
    }
}

/// # Safety
/// Rows i..i + R exist in `source`, with all its slices.
#[inline(always)]
unsafe fn rows<S: Simd, const KIND: u8, const M: usize, const R: usize>(
    s: S,
    source: &Source<M>,
    i: usize,
) -> [[f32; M]; R] {
    // SAFETY: the caller's.
    unsafe {
        match KIND {
            F32 => float_rows::<S, M, R>(s, source, FloatType::F32, i),
            F16 => float_rows::<S, M, R>(s, source, FloatType::F16, i),
            BF16 => float_rows::<S, M, R>(s, source, FloatType::Bf16, i),
            MXFP4 => small_rows::<S, M, R>(s, source, SmallFloat::Mxfp4, i),
            MXFP8 => small_rows::<S, M, R>(s, source, SmallFloat::Mxfp8, i),
            NVFP4 => small_rows::<S, M, R>(s, source, SmallFloat::Nvfp4, i),
            Q4_K => k_rows::<S, M, R>(s, source, KFormat::Q4K, i),
            Q6_K => k_rows::<S, M, R>(s, source, KFormat::Q6K, i),
            OTHER_K => k_rows::<S, M, R>(s, source, source.k(), i),
            // The usual group has a loop of its own, unrolled.
            NIBBLES | BYTES if source.group == 64 => affine_rows::<S, KIND, 2, M, R>(s, source, i),
            _ => affine_rows::<S, KIND, 0, M, R>(s, source, i),
        }
    }
}

/// How far ahead of the bytes in use to fetch. R rows are read side by side, and short rows end before the processor's
/// own prefetcher has learnt of them: there the next R rows are asked for.
#[inline(always)]
fn ahead<const R: usize>(row_bytes: usize) -> usize {
    if row_bytes <= 4096 { R * row_bytes } else { 1024 }
}

/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn float_rows<S: Simd, const M: usize, const R: usize>(
    s: S,
    source: &Source<M>,
    float: FloatType,
    i: usize,
) -> [[f32; M]; R] {
    let width = float.size_bytes();
    let n_vector = source.n_cols / LANES * LANES;
    let mut acc = [[s.splat(0.0); M]; R];
    let mut y = [[0.0f32; M]; R];
    // SAFETY: the caller's; c + 8 <= n_cols.
    unsafe {
        let base = source.codes.add(i * source.row_bytes);
        let ahead = ahead::<R>(source.row_bytes);
        let mut c = 0;
        while c < n_vector {
            let mut x = [s.splat(0.0); M];
            for m in 0..M {
                x[m] = s.load(source.x[m].add(c));
            }
            for r in 0..R {
                let at = base.add(r * source.row_bytes + c * width);
                if (c * width).is_multiple_of(64) {
                    s.prefetch(at.wrapping_add(ahead));
                }
                let w = load_floats(s, float, at);
                for m in 0..M {
                    acc[r][m] = s.fma(w, x[m], acc[r][m]);
                }
            }
            c += LANES;
        }
        for r in 0..R {
            let rest = std::slice::from_raw_parts(base.add(r * source.row_bytes), source.row_bytes);
            for m in 0..M {
                y[r][m] = s.sum(acc[r][m]);
                for c in n_vector..source.n_cols {
                    y[r][m] += float.read(rest, c) * *source.x[m].add(c);
                }
            }
        }
    }
    y
}

/// `n` scales (up to 8) from byte `at` of `bytes`, the other lanes 0.
#[inline(always)]
pub(crate) fn scales8<S: Simd>(s: S, float: FloatType, bytes: &[u8], at: usize, n: usize) -> S::F {
    let bytes = &bytes[at..];
    // A row's last scales are read with what follows them, which may be anything and is masked away.
    if bytes.len() >= LANES * float.size_bytes() {
        // SAFETY: eight values are there.
        let values = unsafe { load_floats(s, float, bytes.as_ptr()) };
        if n >= LANES {
            return values;
        }
        let counts: [f32; LANES] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        // SAFETY: eight values.
        return s.zero_below(s.splat(n as f32), unsafe { s.load(counts.as_ptr()) }, values);
    }
    let mut padded = [0.0f32; LANES];
    for (ix, value) in padded.iter_mut().enumerate().take(n) {
        *value = float.read(bytes, ix);
    }
    // SAFETY: eight values.
    unsafe { s.load(padded.as_ptr()) }
}

/// `BLOCKS`: blocks of 32 a group, 0 if not known beforehand.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn affine_rows<S: Simd, const KIND: u8, const BLOCKS: usize, const M: usize, const R: usize>(
    s: S,
    source: &Source<M>,
    i: usize,
) -> [[f32; M]; R] {
    let n_groups = source.n_cols / source.group;
    let bits = match KIND {
        NIBBLES => 4,
        BYTES => 8,
        _ => source.bits as usize,
    };
    let n_blocks = if BLOCKS > 0 { BLOCKS } else { source.group / 32 };
    let ahead = ahead::<R>(source.row_bytes);
    let tools = Tools::new(s, source.bits);
    let mut acc = [[s.splat(0.0); M]; R];
    // SAFETY: the caller's; g + ix < n_groups, so groups, scales and sums exist.
    unsafe {
        let scale_row_bytes = n_groups * source.scale.size_bytes();
        let codes = source.codes.add(i * source.row_bytes);
        let mut g = 0;
        while g < n_groups {
            let n = LANES.min(n_groups - g);
            let mut factors = [[0.0f32; LANES]; R];
            for r in 0..R {
                let at = (i + r) * scale_row_bytes + g * source.scale.size_bytes();
                let scales = scales8(s, source.scale, source.scales, at, n);
                s.store(factors[r].as_mut_ptr(), scales);
                let biases = scales8(s, source.scale, source.biases, at, n);
                for m in 0..M {
                    acc[r][m] = s.fma(biases, s.load(source.sums[m].add(g)), acc[r][m]);
                }
            }
            for ix in 0..n {
                let mut sums = [[s.splat(0.0); M]; R];
                for block in 0..n_blocks {
                    let c = ((g + ix) * n_blocks + block) * 32;
                    let at = c / 8 * bits;
                    let mut x = source.x;
                    for x in &mut x {
                        *x = x.add(c);
                    }
                    for r in 0..R {
                        let row = codes.add(r * source.row_bytes);
                        if at.is_multiple_of(64) {
                            s.prefetch(row.wrapping_add(at + ahead));
                        }
                        block32::<S, KIND, M>(s, &tools, row, at, source.row_bytes, x, &mut sums[r]);
                    }
                }
                for r in 0..R {
                    let scale = s.splat(factors[r][ix]);
                    for m in 0..M {
                        acc[r][m] = s.fma(sums[r][m], scale, acc[r][m]);
                    }
                }
            }
            g += LANES;
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

/// Masks and shifts, made once a call.
struct Tools<S: Simd> {
    nibble_masks: [S::U; 3],
    nibble_shift: S::U,
    low_nibble: S::U,
    byte_masks: [S::U; 3],
    byte_shift: S::U,
    bits: usize,
    unpack: S::Unpack,
}

impl<S: Simd> Tools<S> {
    #[inline(always)]
    fn new(s: S, bits: u32) -> Self {
        let mut nibble_masks = [s.words([0; 8]); 3];
        let mut byte_masks = nibble_masks;
        for i in 0..3 {
            let (low, high) = (0xf << (4 * i), 0xf << (4 * i + 16));
            nibble_masks[i] = s.words([low, low, low, low, high, high, high, high]);
            byte_masks[i] = s.words([0xff << (8 * i); 8]);
        }
        Self {
            nibble_masks,
            // The topmost nibble would be the sign of the converted word: it is shifted down, and its neighbours of
            // the low half with it.
            nibble_shift: s.words([12, 12, 12, 12, 28, 28, 28, 28]),
            low_nibble: s.words([0xf; 8]),
            byte_masks,
            byte_shift: s.words([24; 8]),
            bits: bits as usize,
            unpack: s.unpack(bits),
        }
    }
}

/// sums[m] += codes of the 32 columns at byte `at` of `row`, times x[m].
///
/// # Safety
/// The block lies in the row's `row_bytes` bytes, and 32 values at each x are readable.
#[inline(always)]
unsafe fn block32<S: Simd, const KIND: u8, const M: usize>(
    s: S,
    tools: &Tools<S>,
    row: *const u8,
    at: usize,
    row_bytes: usize,
    x: [*const f32; M],
    sums: &mut [S::F; M],
) {
    // SAFETY: the caller's.
    unsafe {
        for i in 0..4 {
            let codes = match KIND {
                NIBBLES => {
                    let words = s.load_words_twice(row.add(at));
                    let codes = match i {
                        3 => s.and(s.shift_right(words, tools.nibble_shift), tools.low_nibble),
                        _ => s.and(words, tools.nibble_masks[i]),
                    };
                    s.to_float(codes)
                }
                BYTES => {
                    let words = s.load_words(row.add(at));
                    let codes = match i {
                        3 => s.shift_right(words, tools.byte_shift),
                        _ => s.and(words, tools.byte_masks[i]),
                    };
                    s.to_float(codes)
                }
                _ => {
                    let bytes = std::slice::from_raw_parts(row, row_bytes);
                    let mut copy = [0; 8];
                    s.unpack8(eight_bytes(bytes, at + i * tools.bits, &mut copy), tools.unpack)
                }
            };
            for m in 0..M {
                sums[m] = s.fma(codes, s.load(x[m].add(8 * i)), sums[m]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
