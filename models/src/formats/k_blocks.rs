//! GGUF's block formats, taken apart as [`KFormat`] says.

use super::affine::eight_codes;
use half::f16;
use ingot_ir::weight::KFormat;

/// What codes of iq4_nl and iq4_xs stand for.
const TABLE: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// A matrix in one of the formats.
#[derive(Clone, Copy, Debug)]
pub struct KView<'a> {
    /// The format.
    pub format: KFormat,
    /// Rows.
    pub n_rows: usize,
    /// Columns, whole blocks.
    pub n_cols: usize,
    /// `n_rows * n_cols * bits / 8` bytes.
    pub codes: &'a [u8],
    /// The blocks' headers.
    pub headers: &'a [u8],
}

impl KView<'_> {
    /// Widens one row to f32.
    ///
    /// # Panics
    /// If `row` is not a row or `out` does not have `n_cols` elements.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of a matrix with {} rows", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "a row has n_cols elements");
        let (bits, group, block) =
            (self.format.bits() as usize, self.format.group() as usize, self.format.block() as usize);
        let row_bytes = self.n_cols * bits / 8;
        let codes = &self.codes[row * row_bytes..][..row_bytes];
        let n_bytes = self.format.header_bytes() as usize;
        let headers = &self.headers[row * (self.n_cols / block) * n_bytes..];
        let groups = codes.chunks_exact(group * bits / 8);
        for ((ix, out), codes) in out.chunks_exact_mut(group).enumerate().zip(groups) {
            let first = ix * group;
            let (scale, bias) = self.scale(&headers[first / block * n_bytes..][..n_bytes], first % block / group);
            for (out, codes) in out.as_chunks_mut::<8>().0.iter_mut().zip(codes.chunks_exact(bits)) {
                *out = eight_codes(codes).map(|code| {
                    let number = if self.format.has_table() { TABLE[code as usize] } else { f32::from(code) };
                    number * scale + bias
                });
            }
        }
    }

    /// Scale and bias of a block's group.
    fn scale(&self, header: &[u8], group: usize) -> (f32, f32) {
        let unit = |at: usize| f16::from_le_bytes([header[at], header[at + 1]]).to_f32();
        match self.format {
            KFormat::Q2K => (unit(16) * f32::from(header[group] & 15), -unit(18) * f32::from(header[group] >> 4)),
            KFormat::Q4K | KFormat::Q5K => {
                (unit(16) * f32::from(header[group]), -unit(18) * f32::from(header[8 + group]))
            }
            KFormat::Q3K | KFormat::Q6K => {
                let scale = unit(16) * f32::from(header[group] as i8);
                let middle = if self.format == KFormat::Q3K { 4.0 } else { 32.0 };
                (scale, -middle * scale)
            }
            KFormat::Iq4Xs => (unit(8) * f32::from(header[group] as i8), 0.0),
            KFormat::Iq4Nl => (unit(0), 0.0),
        }
    }
}
