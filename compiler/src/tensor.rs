//! Checkpoint tensors as the repack step reads them: bytes that lie in a file, or rows that are made as they are read.

use ingot_ir::weight::{Format, Part};
use std::borrow::Cow;
use std::ops::Range;

/// A checkpoint tensor's bytes. Rows are contiguous in each part.
#[derive(Clone, Copy, Debug, Default)]
pub struct TensorBytes<'a> {
    /// Numbers, or codes of a quantized tensor.
    pub values: &'a [u8],
    /// Scales of a quantized tensor, else empty.
    pub scales: &'a [u8],
    /// Biases of an affine tensor, else empty.
    pub biases: &'a [u8],
    /// The global scale of a tensor whose format has one: an f32 for all rows, or one for each equal part of them.
    pub global: &'a [u8],
}

/// A matrix that its file stores in a form of another engine; rows of the own form are made of it when they are asked for,
/// so that the whole is never in memory.
pub trait MakeRows {
    /// The form of the rows; it has no global scales.
    fn format(&self) -> Format;
    /// Rows.
    fn n_rows(&self) -> u32;
    /// Columns.
    fn n_cols(&self) -> u32;
    /// Makes one part of rows from `first_row` on, as many as `out` holds: whole ones.
    fn make(&self, part: Part, first_row: u32, out: &mut [u8]);
}

/// A checkpoint tensor.
pub enum Tensor<'a> {
    /// As it lies in a file.
    Stored(TensorBytes<'a>),
    /// Made while it is read.
    Made(Box<dyn MakeRows + 'a>),
}

impl<'a> From<TensorBytes<'a>> for Tensor<'a> {
    fn from(bytes: TensorBytes<'a>) -> Self {
        Self::Stored(bytes)
    }
}

impl Tensor<'_> {
    /// Fills `out` with bytes `offset ..` of one part, whose rows have `row_bytes`.
    ///
    /// # Panics
    /// If the part has fewer bytes.
    pub fn read(&self, part: Part, row_bytes: usize, offset: usize, out: &mut [u8]) {
        if let Self::Stored(stored) = self {
            return out.copy_from_slice(&stored.part(part)[offset..][..out.len()]);
        }
        let (first, end) = (offset / row_bytes, (offset + out.len()).div_ceil(row_bytes));
        let rows = self.rows(part, row_bytes, first as u32..end as u32);
        out.copy_from_slice(&rows[offset - first * row_bytes..][..out.len()]);
    }

    /// Bytes of its values, and up to `most` of the first of them.
    pub fn beginning(&self, most: usize) -> (usize, Cow<'_, [u8]>) {
        match self {
            Self::Stored(stored) => {
                (stored.values.len(), Cow::Borrowed(&stored.values[..stored.values.len().min(most)]))
            }
            Self::Made(made) => {
                let row_bytes = made.format().row_parts(made.n_cols()).values as usize;
                let n_bytes = made.n_rows() as usize * row_bytes;
                let mut bytes = vec![0; n_bytes.min(most)];
                self.read(Part::Values, row_bytes, 0, &mut bytes);
                (n_bytes, Cow::Owned(bytes))
            }
        }
    }

    /// One part of some rows; of a stored tensor, of all.
    fn rows(&self, part: Part, row_bytes: usize, rows: Range<u32>) -> Cow<'_, [u8]> {
        match self {
            Self::Stored(stored) => Cow::Borrowed(stored.part(part)),
            Self::Made(made) => {
                let mut bytes = vec![0; rows.len() * row_bytes];
                made.make(part, rows.start, &mut bytes);
                Cow::Owned(bytes)
            }
        }
    }
}

impl<'a> TensorBytes<'a> {
    fn part(&self, part: Part) -> &'a [u8] {
        match part {
            Part::Values => self.values,
            Part::Scales => self.scales,
            Part::Biases => self.biases,
        }
    }
}

/// One part of rows of some tensors, ready to be read.
pub(crate) struct Rows<'t> {
    row_bytes: usize,
    /// By tensor: the first row that is there, and the bytes from there on.
    tensors: Vec<(u32, Cow<'t, [u8]>)>,
}

impl<'t> Rows<'t> {
    /// Of each tensor all rows if it is stored, else those of `needed`.
    pub(crate) fn of(tensors: &'t [Tensor<'_>], part: Part, row_bytes: usize, needed: &[Range<u32>]) -> Self {
        let rows = |(tensor, needed): (&'t Tensor<'_>, &Range<u32>)| {
            let first = if matches!(tensor, Tensor::Stored(_)) { 0 } else { needed.start };
            (first, tensor.rows(part, row_bytes, needed.clone()))
        };
        Self { row_bytes, tensors: tensors.iter().zip(needed).map(rows).collect() }
    }

    /// A row by tensor and place in it.
    pub(crate) fn row(&self, (tensor, row): (usize, u32)) -> &[u8] {
        let (first, bytes) = &self.tensors[tensor];
        &bytes[(row - first) as usize * self.row_bytes..][..self.row_bytes]
    }
}
