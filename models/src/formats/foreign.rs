//! Matrices that other engines store in forms of their own. Rows of a form that kernels read are made of them when they are
//! asked for, so that a file of any size takes memory for some rows alone.

use super::gguf::blocks::{self, Stored};
use super::packed::PackedView;
use ingot_ir::weight::{Format, Part};
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of rows that a thread makes at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A matrix in another engine's form. Nothing of it has been read.
#[derive(Clone, Copy, Debug)]
pub struct Foreign<'a> {
    /// The form of the rows that are made of it.
    pub format: Format,
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_cols: usize,
    pub(crate) form: Form<'a>,
}

/// How it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form<'a> {
    /// Rows of GGUF's blocks. With `pairs` those of each head of so many rows stand in an order in which the two that a
    /// rotation turns together are neighbours.
    Blocks { stored: Stored, pairs: Option<usize>, bytes: &'a [u8] },
    /// Words of AWQ or GPTQ.
    Packed(PackedView<'a>),
}

/// Rows that were made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rows {
    /// Their form.
    pub format: Format,
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_cols: usize,
    /// Numbers or codes.
    pub values: Vec<u8>,
    /// Scales of a quantized matrix.
    pub scales: Vec<u8>,
    /// Biases of an affine matrix.
    pub biases: Vec<u8>,
}

impl Foreign<'_> {
    /// Bytes of a row in one part.
    pub fn row_bytes(&self, part: Part) -> usize {
        self.format.row_parts(self.n_cols as u32).of(part) as usize
    }

    /// Bytes that it takes in its file.
    pub fn n_stored_bytes(&self) -> usize {
        match self.form {
            Form::Blocks { bytes, .. } => bytes.len(),
            Form::Packed(view) => view.n_stored_bytes(),
        }
    }

    /// Makes one part of rows from `first_row` on, many of them on several threads.
    ///
    /// # Panics
    /// If `out` is no whole rows, or reaches past the last one.
    pub fn make(&self, part: Part, first_row: usize, out: &mut [u8]) {
        let row_bytes = self.row_bytes(part);
        if row_bytes == 0 {
            return;
        }
        assert!(out.len().is_multiple_of(row_bytes), "whole rows are made");
        assert!(first_row + out.len() / row_bytes <= self.n_rows, "rows are the matrix's");
        let n_rows = (CHUNK_BYTES / row_bytes).max(1);
        if out.len() <= n_rows * row_bytes {
            return self.make_chunk(part, first_row, out);
        }
        let chunks = out.par_chunks_mut(n_rows * row_bytes).enumerate();
        chunks.for_each(|(ix, out)| self.make_chunk(part, first_row + ix * n_rows, out));
    }

    fn make_chunk(&self, part: Part, first_row: usize, out: &mut [u8]) {
        let row_bytes = self.row_bytes(part);
        match self.form {
            Form::Packed(view) => view.make(part, first_row, row_bytes, out),
            Form::Blocks { stored, pairs, bytes } => {
                let stored_bytes = self.n_cols / stored.block_len() * stored.block_bytes();
                for (ix, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                    let row = first_row + ix;
                    let row = pairs.map_or(row, |head_dim| paired_row(row, head_dim));
                    let blocks = &bytes[row * stored_bytes..][..stored_bytes];
                    match stored.float() {
                        Some(_) => out.copy_from_slice(blocks),
                        None => blocks::take_apart(stored, self.format, part, blocks, out),
                    }
                }
            }
        }
    }

    /// Makes all parts of some rows.
    ///
    /// # Panics
    /// If they are not rows of the matrix.
    pub fn rows(&self, rows: Range<usize>) -> Rows {
        let part = |part: Part| {
            let mut bytes = vec![0; rows.len() * self.row_bytes(part)];
            self.make(part, rows.start, &mut bytes);
            bytes
        };
        let (values, scales, biases) = (part(Part::Values), part(Part::Scales), part(Part::Biases));
        Rows { format: self.format, n_rows: rows.len(), n_cols: self.n_cols, values, scales, biases }
    }
}

/// Where the row `row` of an order in which rotary pairs are half a head apart stands in the one in which they are
/// neighbours.
pub(crate) fn paired_row(row: usize, head_dim: usize) -> usize {
    let (head, at, half) = (row / head_dim, row % head_dim, head_dim / 2);
    head * head_dim + 2 * (at % half) + at / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_come_from_even_and_odd_ones() {
        let rows: Vec<usize> = (0..8).map(|row| paired_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
