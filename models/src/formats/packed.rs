//! AWQ and GPTQ: 4-bit codes, eight to an `int32`, by input column; `w = (code - zero) * scale`.
//!
//! | tensor | AWQ (`gemm`) | GPTQ |
//! |---|---|---|
//! | `qweight` | `[in, out / 8]`, a word has eight rows of the matrix in the order 0, 2, 4, 6, 1, 3, 5, 7 | `[in / 8, out]`, a word has eight columns in their order |
//! | `qzeros` | `[in / group, out / 8]`, words as in `qweight` | the same shape, words in their order, minus one in version 1 |
//! | `scales` | `[in / group, out]` | the same |
//! | `g_idx` | | `[in]`, the group of each column; with act-order they are not in order |
//!
//! What is made of them is what mlx-lm makes: the affine form with `bias = -zero * scale`, rounded to the type of the scales.
//! Layouts as in AutoAWQ's `WQLinear_GEMM` and AutoGPTQ's `QuantLinear`.

use super::safetensors::{StoredType, TensorView};
use crate::formats::affine::{push_scale, scale_at};
use ingot_ir::weight::{Format, Part, ScaleType};

/// Bits a code, and codes a word.
const BITS: usize = 4;
const CODES: usize = 8;

/// Where row `8 n + i` of an AWQ matrix is in its word.
const AWQ_PLACE: [usize; CODES] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Who packed a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packer {
    /// AWQ's `gemm` layout.
    Awq,
    /// GPTQ; version 1 stores zeros minus one.
    Gptq {
        /// What is added to stored zeros.
        zero_offset: u32,
    },
}

impl Packer {
    /// The method's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Awq => "AWQ",
            Self::Gptq { .. } => "GPTQ",
        }
    }
}

/// A module's tensors, sizes checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedView<'a> {
    packer: Packer,
    /// Columns a scale in the file: a multiple of `own_group`.
    stored_group: usize,
    own_group: usize,
    scale_type: ScaleType,
    pub n_rows: usize,
    pub n_cols: usize,
    weight: &'a [u8],
    /// Without them every zero is 8.
    zeros: Option<&'a [u8]>,
    scales: &'a [u8],
}

impl<'a> PackedView<'a> {
    /// Checks types and shapes.
    ///
    /// # Errors
    /// The tensor that does not fit, by its ending, and why.
    pub(crate) fn new(
        packer: Packer,
        weight: TensorView<'a>,
        zeros: Option<TensorView<'a>>,
        scales: TensorView<'a>,
        groups: Option<TensorView<'a>>,
    ) -> Result<Self, (&'static str, String)> {
        let two =
            |tensor: &TensorView<'_>| <[usize; 2]>::try_from(tensor.shape).ok().filter(|shape| !shape.contains(&0));
        let wrong = |ending: &'static str, tensor: &TensorView<'_>, expected: String| {
            (ending, format!("is {} {:?}; expected {expected}", tensor.stored, tensor.shape))
        };
        let is_words = |tensor: &TensorView<'_>| matches!(tensor.stored, StoredType::I32 | StoredType::U32);
        let Some([a, b]) = two(&weight).filter(|_| is_words(&weight)) else {
            return Err(wrong("qweight", &weight, "a matrix of I32".into()));
        };
        let sizes = match packer {
            Packer::Awq => b.checked_mul(CODES).map(|n_rows| (n_rows, a)),
            Packer::Gptq { .. } => a.checked_mul(CODES).map(|n_cols| (b, n_cols)),
        };
        let Some((n_rows, n_cols)) = sizes.filter(|sizes| u32::try_from(sizes.0.max(sizes.1)).is_ok()) else {
            return Err(wrong("qweight", &weight, "a smaller one".into()));
        };
        let scale_type = match scales.stored {
            StoredType::F16 => ScaleType::F16,
            StoredType::Bf16 => ScaleType::Bf16,
            StoredType::F32 => ScaleType::F32,
            _ => return Err(wrong("scales", &scales, "F16, BF16 or F32".into())),
        };
        let n_groups = two(&scales).filter(|[_, n]| *n == n_rows).map(|[n_groups, _]| n_groups);
        let stored_group = n_groups.filter(|n| n_cols.is_multiple_of(*n)).map(|n| n_cols / n);
        // Longer groups are several of ours with one scale.
        let own_group = stored_group.and_then(|group| [128, 64, 32].into_iter().find(|own| group.is_multiple_of(*own)));
        let (Some(n_groups), Some(stored_group), Some(own_group)) = (n_groups, stored_group, own_group) else {
            let expected = format!("[groups, {n_rows}] with groups of a multiple of 32 of the {n_cols} columns");
            return Err(wrong("scales", &scales, expected));
        };
        if let Some(zeros) = zeros
            && (two(&zeros) != Some([n_groups, n_rows.div_ceil(CODES)]) || !is_words(&zeros))
        {
            return Err(wrong("qzeros", &zeros, format!("I32 [{n_groups}, {}]", n_rows.div_ceil(CODES))));
        }
        if let Some(groups) = groups {
            if groups.shape != [n_cols] || groups.stored != StoredType::I32 {
                return Err(wrong("g_idx", &groups, format!("I32 [{n_cols}]")));
            }
            let in_order = |(col, bytes): (usize, &[u8; 4])| i32::from_le_bytes(*bytes) as usize == col / stored_group;
            if !groups.bytes.as_chunks::<4>().0.iter().enumerate().all(in_order) {
                let what = "columns are grouped in another order than they stand in (act-order, desc_act), which is not supported; take a model without it";
                return Err(("g_idx", what.into()));
            }
        }
        let (weight, scales, zeros) = (weight.bytes, scales.bytes, zeros.map(|zeros| zeros.bytes));
        Ok(Self { packer, stored_group, own_group, scale_type, n_rows, n_cols, weight, zeros, scales })
    }

    /// The form of the rows that are made.
    pub(crate) fn format(&self) -> Format {
        Format::Affine { bits: BITS as u8, group: self.own_group as u16, scales: self.scale_type }
    }

    /// Bytes in the file.
    pub(crate) fn n_stored_bytes(&self) -> usize {
        self.weight.len() + self.scales.len() + self.zeros.map_or(0, <[u8]>::len)
    }

    /// Makes one part of rows `first ..`, as many as there is room for.
    pub(crate) fn make(&self, part: Part, first: usize, row_bytes: usize, out: &mut [u8]) {
        if part != Part::Values {
            let mut number = Vec::with_capacity(4);
            for (ix, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                let size = self.scale_type.n_bytes() as usize;
                for (group, out) in out.chunks_exact_mut(size).enumerate() {
                    let (row, group) = (first + ix, group * self.own_group / self.stored_group);
                    let scale = scale_at(self.scale_type, self.scales, group * self.n_rows + row);
                    let value = if part == Part::Scales { scale } else { -(self.zero(group, row) as f32) * scale };
                    number.clear();
                    push_scale(self.scale_type, &mut number, value);
                    out.copy_from_slice(&number);
                }
            }
            return;
        }
        // By words of eight columns, so that the file is read in runs.
        for word in 0..self.n_cols / CODES {
            for (ix, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                out[4 * word..][..4].copy_from_slice(&self.codes(first + ix, word).to_le_bytes());
            }
        }
    }

    /// The codes of columns `8 word ..` of a row.
    fn codes(&self, row: usize, word: usize) -> u32 {
        match self.packer {
            Packer::Gptq { .. } => word_at(self.weight, word * self.n_rows + row),
            Packer::Awq => {
                let (n_words, shift) = (self.n_rows / CODES, BITS * AWQ_PLACE[row % CODES]);
                let code =
                    |col: usize| word_at(self.weight, (CODES * word + col) * n_words + row / CODES) >> shift & 15;
                (0..CODES).rev().fold(0, |codes, col| codes << BITS | code(col))
            }
        }
    }

    fn zero(&self, group: usize, row: usize) -> u32 {
        let Some(zeros) = self.zeros else { return 8 };
        let word = word_at(zeros, group * self.n_rows.div_ceil(CODES) + row / CODES);
        match self.packer {
            Packer::Awq => word >> (BITS * AWQ_PLACE[row % CODES]) & 15,
            Packer::Gptq { zero_offset } => (word >> (BITS * (row % CODES)) & 15) + zero_offset,
        }
    }
}

fn word_at(bytes: &[u8], ix: usize) -> u32 {
    u32::from_le_bytes([bytes[4 * ix], bytes[4 * ix + 1], bytes[4 * ix + 2], bytes[4 * ix + 3]])
}
