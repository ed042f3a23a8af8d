//! Weights as stored: row-major bytes in one of the plan's formats, merged matrices as a list of row segments.

use half::{bf16, f16};
use ingot_ir::weight::KFormat;

/// Stored floating-point type, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl FloatType {
    /// Bytes of one value.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        match self {
            FloatType::F32 => 4,
            FloatType::F16 | FloatType::Bf16 => 2,
        }
    }

    /// Value `ix` of `bytes`.
    #[inline]
    #[must_use]
    pub fn read(self, bytes: &[u8], ix: usize) -> f32 {
        match self {
            FloatType::F32 => {
                f32::from_le_bytes([bytes[4 * ix], bytes[4 * ix + 1], bytes[4 * ix + 2], bytes[4 * ix + 3]])
            }
            FloatType::F16 => f16::from_le_bytes([bytes[2 * ix], bytes[2 * ix + 1]]).to_f32(),
            FloatType::Bf16 => bf16::from_le_bytes([bytes[2 * ix], bytes[2 * ix + 1]]).to_f32(),
        }
    }
}

/// How a segment's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One float a value.
    Float(FloatType),
    /// w = code * scale + bias, one (scale, bias) for `group` neighbouring columns; a row's codes are one little-endian
    /// bit stream (MLX's affine mode).
    Affine {
        /// Bits a code: 1, 2, 3, 4, 5, 6 or 8.
        bits: u32,
        /// Columns a scale: 32, 64 or 128.
        group: usize,
        /// Type of scales and biases.
        scale: FloatType,
    },
    /// w = code * scale, both small floats.
    SmallFloat(SmallFloat),
    /// w = number * scale + bias, where scale and bias come of a block's header.
    K(KFormat),
}

/// Formats whose codes and scales are small floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmallFloat {
    /// e2m1 codes, an e8m0 scale for 32 columns.
    Mxfp4,
    /// e4m3 codes, an e8m0 scale for 32 columns.
    Mxfp8,
    /// e2m1 codes, an e4m3 scale for 16 columns, and perhaps factors of the segment.
    Nvfp4,
}

impl SmallFloat {
    /// Columns a scale.
    #[must_use]
    pub fn group(self) -> usize {
        match self {
            SmallFloat::Mxfp4 | SmallFloat::Mxfp8 => 32,
            SmallFloat::Nvfp4 => 16,
        }
    }

    /// Bits a code.
    #[must_use]
    pub fn bits(self) -> usize {
        match self {
            SmallFloat::Mxfp4 | SmallFloat::Nvfp4 => 4,
            SmallFloat::Mxfp8 => 8,
        }
    }

    /// A scale's number.
    #[inline]
    #[must_use]
    pub fn scale(self, byte: u8) -> f32 {
        match self {
            SmallFloat::Mxfp4 | SmallFloat::Mxfp8 => e8m0(byte),
            SmallFloat::Nvfp4 => e4m3(byte),
        }
    }
}

/// 2^(byte - 127). Byte 0 has no leading one in single precision.
#[inline]
fn e8m0(byte: u8) -> f32 {
    f32::from_bits(if byte == 0 { 0x0040_0000 } else { u32::from(byte) << 23 })
}

/// Sign, four bits of exponent with bias 7, three of fraction.
#[inline]
fn e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (u32::from(byte >> 3 & 15), u32::from(byte & 7));
    let size = match exponent {
        0 => fraction as f32 / 512.0,
        _ => f32::from_bits((exponent + 120) << 23 | fraction << 20),
    };
    if byte & 0x80 == 0 { size } else { -size }
}

impl Format {
    /// Bytes of one row's values or codes.
    #[must_use]
    pub fn row_bytes(self, n_cols: usize) -> usize {
        match self {
            Format::Float(float) => n_cols * float.size_bytes(),
            Format::Affine { bits, .. } => n_cols * bits as usize / 8,
            Format::SmallFloat(small) => n_cols * small.bits() / 8,
            Format::K(k) => n_cols * k.bits() as usize / 8,
        }
    }

    /// Scales of one row (0 for floats).
    #[must_use]
    pub fn n_groups(self, n_cols: usize) -> usize {
        match self {
            Format::Float(_) => 0,
            Format::Affine { group, .. } => n_cols / group,
            Format::SmallFloat(small) => n_cols / small.group(),
            Format::K(k) => n_cols / k.group() as usize,
        }
    }

    /// Bytes of one row's scales, and of its biases.
    #[must_use]
    pub fn scale_bytes(self, n_cols: usize) -> (usize, usize) {
        let n = self.n_groups(n_cols);
        match self {
            Format::Float(_) => (0, 0),
            Format::Affine { scale, .. } => (n * scale.size_bytes(), n * scale.size_bytes()),
            Format::SmallFloat(_) => (n, 0),
            Format::K(k) => (n_cols / k.block() as usize * k.header_bytes() as usize, 0),
        }
    }
}

/// Scale and bias of a row's group `group`, from the row's headers.
#[inline]
#[must_use]
pub fn k_scale(k: KFormat, headers: &[u8], group: usize) -> (f32, f32) {
    let n_groups = (k.block() / k.group()) as usize;
    let header = &headers[group / n_groups * k.header_bytes() as usize..][..k.header_bytes() as usize];
    let at = group % n_groups;
    let unit = |at: usize| f16::from_le_bytes([header[at], header[at + 1]]).to_f32();
    match k {
        KFormat::Q2K => (unit(16) * f32::from(header[at] & 15), -unit(18) * f32::from(header[at] >> 4)),
        KFormat::Q4K | KFormat::Q5K => (unit(16) * f32::from(header[at]), -unit(18) * f32::from(header[8 + at])),
        KFormat::Q3K | KFormat::Q6K => {
            let scale = unit(16) * f32::from(header[at] as i8);
            (scale, -scale * (1u32 << (k.bits() - 1)) as f32)
        }
        KFormat::Iq4Xs => (unit(8) * f32::from(header[at] as i8), 0.0),
        KFormat::Iq4Nl => (unit(0), 0.0),
    }
}

/// Rows stored together. No slice needs any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Number of rows.
    pub n_rows: usize,
    /// How they are stored.
    pub format: Format,
    /// Values or codes, row-major without padding.
    pub codes: &'a [u8],
    /// Scales, [rows][columns / group]; empty for floats.
    pub scales: &'a [u8],
    /// Biases of an affine segment, like `scales`.
    pub biases: &'a [u8],
    /// f32 factors of the scales, one for each equal part of the rows; empty for none.
    pub factors: &'a [u8],
}

impl Segment<'_> {
    /// What the scales of a row are multiplied with.
    #[inline]
    #[must_use]
    pub fn factor(&self, row: usize) -> f32 {
        // The global scale's unit is the largest e4m3 number times the largest e2m1 number.
        let factor = |n_part_rows| FloatType::F32.read(self.factors, row / n_part_rows) / (448.0 * 6.0);
        self.n_rows.checked_div(self.factors.len() / 4).map_or(1.0, factor)
    }
}

/// Why a weight cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// A slice is shorter or longer than its shape needs.
    #[error("{part} of weight segment {segment} has {found} bytes, its shape needs {needed}")]
    Size {
        /// Index of the segment.
        segment: usize,
        /// `codes`, `scales`, `biases` or `factors`.
        part: &'static str,
        /// Bytes given.
        found: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// Bits, group or columns that no format has.
    #[error(
        "weight segment {segment}: {bits} bits in groups of {group} over {n_cols} columns; bits may be 1, 2, 3, 4, 5, 6 or 8, a group 32, 64 or 128 columns that divide a row"
    )]
    Format {
        /// Index of the segment.
        segment: usize,
        /// Bits a code.
        bits: u32,
        /// Columns a group.
        group: usize,
        /// Columns a row.
        n_cols: usize,
    },
    /// Interleaving needs pairs of segments of equal height.
    #[error("rows can be interleaved of pairs of segments of equal height only")]
    Interleave,
}

/// Rows of one segment that lie in a range of matrix rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) segment: &'a Segment<'a>,
    /// First row in the segment.
    pub(crate) row: usize,
    pub(crate) n_rows: usize,
    /// Where in the range the first of them stands, and how far apart they are.
    pub(crate) at: usize,
    pub(crate) step: usize,
}

/// A matrix `[n_rows][n_cols]` of one or more segments, sizes checked.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    n_rows: usize,
    n_cols: usize,
    segments: &'a [Segment<'a>],
    interleave: bool,
}

impl<'a> Weight<'a> {
    /// The rows of `segments` one after the other; with `interleave` (pairs of segments: gate, up) row 2i of a pair is row i
    /// of its first and row 2i + 1 row i of its second.
    ///
    /// # Errors
    /// A slice that does not fit its shape, or a format that does not exist.
    pub fn new(n_cols: usize, segments: &'a [Segment<'a>], interleave: bool) -> Result<Self, WeightError> {
        for (ix, segment) in segments.iter().enumerate() {
            let (bits, group, known) = match segment.format {
                Format::Float(_) => (0, 1, true),
                Format::Affine { bits, group, .. } => {
                    (bits, group, matches!(bits, 1..=6 | 8) && matches!(group, 32 | 64 | 128))
                }
                Format::SmallFloat(small) => (small.bits() as u32, small.group(), true),
                Format::K(k) => (k.bits(), k.block() as usize, true),
            };
            if !known || !n_cols.is_multiple_of(group) {
                return Err(WeightError::Format { segment: ix, bits, group, n_cols });
            }
            let (scale_bytes, bias_bytes) = segment.format.scale_bytes(n_cols);
            let n_factors = segment.factors.len() / 4;
            if !(segment.factors.is_empty() || n_factors > 0 && segment.n_rows.is_multiple_of(n_factors)) {
                let (found, needed) = (segment.factors.len(), 4);
                return Err(WeightError::Size { segment: ix, part: "factors", found, needed });
            }
            let sizes = [
                ("codes", segment.codes.len(), segment.format.row_bytes(n_cols)),
                ("scales", segment.scales.len(), scale_bytes),
                ("biases", segment.biases.len(), bias_bytes),
            ];
            for (part, found, row_bytes) in sizes {
                let needed = segment.n_rows.saturating_mul(row_bytes);
                if found != needed {
                    return Err(WeightError::Size { segment: ix, part, found, needed });
                }
            }
        }
        let (pairs, rest) = segments.as_chunks::<2>();
        if interleave && (!rest.is_empty() || pairs.iter().any(|[a, b]| a.n_rows != b.n_rows)) {
            return Err(WeightError::Interleave);
        }
        let n_rows = segments.iter().map(|s| s.n_rows).sum();
        Ok(Self { n_rows, n_cols, segments, interleave })
    }

    /// Number of rows of all segments.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Number of columns.
    #[must_use]
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &'a [Segment<'a>] {
        self.segments
    }

    /// Whether the rows of pairs of segments alternate.
    #[must_use]
    pub fn is_interleaved(&self) -> bool {
        self.interleave
    }

    /// Matrix rows `first..first + n` by segments; segments without a row there are left out.
    pub(crate) fn pieces(&self, first: usize, n: usize) -> impl Iterator<Item = Piece<'a>> {
        let (end, interleave) = (first + n, self.interleave);
        let mut start = 0;
        self.segments.iter().enumerate().filter_map(move |(ix, segment)| {
            // Rows of the segment, or of the pair that it is in.
            let height = if interleave { 2 * segment.n_rows } else { segment.n_rows };
            let (begin, until) = (first.max(start) - start, end.min(start + height).saturating_sub(start));
            let (row, row_end, at, step) = if interleave {
                let place = ix % 2;
                let row = (begin + 1 - place) / 2;
                (row, (until + 1 - place) / 2, start + 2 * row + place, 2)
            } else {
                (begin, until, start + begin, 1)
            };
            if !interleave || ix % 2 == 1 {
                start += height;
            }
            let at = at - first.min(at);
            (row < row_end).then(|| Piece { segment, row, n_rows: row_end - row, at, step })
        })
    }

    /// Segment and row in it of matrix row `row`.
    #[must_use]
    pub fn locate(&self, row: usize) -> (&'a Segment<'a>, usize) {
        assert!(row < self.n_rows, "row {row} of a weight of {} rows", self.n_rows);
        let mut at = row;
        if self.interleave {
            for pair in self.segments.chunks_exact(2) {
                if at < 2 * pair[0].n_rows {
                    return (&pair[at % 2], at / 2);
                }
                at -= 2 * pair[0].n_rows;
            }
        }
        for segment in self.segments {
            if at < segment.n_rows {
                return (segment, at);
            }
            at -= segment.n_rows;
        }
        unreachable!("row is below the sum of the segments' rows")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_formats_are_checked() {
        let bytes = [0u8; 64];
        let float = |n_rows, len| Segment {
            n_rows,
            format: Format::Float(FloatType::Bf16),
            codes: &bytes[..len],
            scales: &[],
            biases: &[],
            factors: &[],
        };
        assert_eq!(Weight::new(4, &[float(2, 16), float(1, 8)], false).map(|w| w.n_rows()), Ok(3));
        let short = Weight::new(4, &[float(2, 16), float(1, 7)], false).map(|w| w.n_rows());
        assert_eq!(short, Err(WeightError::Size { segment: 1, part: "codes", found: 7, needed: 8 }));
        assert_eq!(Weight::new(4, &[float(2, 16), float(1, 8)], true).err(), Some(WeightError::Interleave));
        let affine = |bits, group, n_scale_bytes| Segment {
            n_rows: 1,
            format: Format::Affine { bits, group, scale: FloatType::F16 },
            codes: &bytes[..4 * bits as usize],
            scales: &bytes[..n_scale_bytes],
            biases: &bytes[..n_scale_bytes],
            factors: &[],
        };
        assert!(Weight::new(32, &[affine(4, 32, 2)], false).is_ok());
        assert!(matches!(Weight::new(32, &[affine(4, 32, 4)], false), Err(WeightError::Size { part: "scales", .. })));
        assert!(matches!(Weight::new(32, &[affine(7, 32, 2)], false), Err(WeightError::Format { .. })));
        assert!(matches!(Weight::new(32, &[affine(4, 64, 2)], false), Err(WeightError::Format { .. })));
    }

    /// `n` rows of two f32.
    fn floats(bytes: &[u8], n: usize) -> Segment<'_> {
        let codes = &bytes[..8 * n];
        Segment { n_rows: n, format: Format::Float(FloatType::F32), codes, scales: &[], biases: &[], factors: &[] }
    }

    #[test]
    fn rows_are_found_in_their_segments() {
        let bytes = [0u8; 64];
        let float = |n: usize| floats(&bytes, n);
        let segments = [float(3), float(1)];
        let weight = Weight::new(2, &segments, false).expect("well formed");
        assert_eq!((weight.locate(2).1, weight.locate(3).1), (2, 0));
        let pair = [float(2), float(2)];
        let weight = Weight::new(2, &pair, true).expect("well formed");
        assert!(std::ptr::eq(weight.locate(3).0, &raw const pair[1]));
        assert_eq!(weight.locate(3).1, 1);
    }

    #[test]
    fn pairs_of_segments_follow_each_other() {
        let bytes = [0u8; 64];
        let float = |n: usize| floats(&bytes, n);
        let segments = [float(2), float(2), float(3), float(3)];
        let weight = Weight::new(2, &segments, true).expect("well formed");
        let place = |segment: &Segment| segments.iter().position(|other| std::ptr::eq(other, segment));
        let located: Vec<_> = (0..10).map(|row| weight.locate(row)).map(|(s, row)| (place(s), row)).collect();
        let expected = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (3, 0), (2, 1), (3, 1), (2, 2), (3, 2)];
        assert_eq!(located, expected.map(|(segment, row)| (Some(segment), row)));
        for first in 0..10 {
            for n in 1..=10 - first {
                let mut rows = vec![None; n];
                for Piece { segment, row, n_rows, at, step } in weight.pieces(first, n) {
                    (0..n_rows).for_each(|i| rows[at + i * step] = Some((place(segment), row + i)));
                }
                let wanted: Vec<_> = located[first..first + n].iter().map(|found| Some(*found)).collect();
                assert_eq!(rows, wanted, "rows {first} and {n} more");
            }
        }
        assert_eq!(Weight::new(2, &segments[..3], true).err(), Some(WeightError::Interleave));
    }
}
