//! What a weight is: its logical shape, how its numbers are stored, and from which checkpoint tensors it is made.
//! Weight bytes are read only by the repack step; here are their descriptions.

use crate::handle::handle;
use serde::{Deserialize, Serialize};
use std::fmt;

handle! {
    /// A [`Weight`] of a graph.
    WeightId "w"
}

/// Type of an affine format's scales and biases.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ScaleType {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
}

/// How a weight's numbers are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// MLX's affine quantization: `w = code * scale + bias`, one scale and bias for `group` columns.
    Affine {
        /// Bits a code: 2, 3, 4, 5, 6 or 8.
        bits: u8,
        /// Columns a group: 32, 64 or 128.
        group: u16,
        /// Type of scale and bias.
        scales: ScaleType,
    },
}

impl ScaleType {
    /// Bytes of one scale.
    pub fn n_bytes(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
    fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

impl Format {
    /// Bytes of one row of `n_cols` numbers, scales included.
    pub fn row_bytes(self, n_cols: u32) -> u64 {
        let n = u64::from(n_cols);
        match self {
            Self::F32 => n * 4,
            Self::F16 | Self::Bf16 => n * 2,
            Self::Affine { bits, group, scales } => {
                n * u64::from(bits) / 8 + n / u64::from(group) * 2 * scales.n_bytes()
            }
        }
    }
    /// Whether a row of `n_cols` can be stored in this format.
    pub fn takes_cols(self, n_cols: u32) -> bool {
        match self {
            Self::F32 => true,
            Self::F16 | Self::Bf16 => n_cols.is_multiple_of(2),
            Self::Affine { bits, group, .. } => {
                matches!(bits, 2 | 3 | 4 | 5 | 6 | 8)
                    && matches!(group, 32 | 64 | 128)
                    && n_cols.is_multiple_of(u32::from(group))
            }
        }
    }
    /// Reads what `Display` prints.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "f32" => return Some(Self::F32),
            "f16" => return Some(Self::F16),
            "bf16" => return Some(Self::Bf16),
            _ => {}
        }
        let (bits, rest) = text.strip_prefix("affine")?.split_once('g')?;
        let (group, scales) = rest.split_once('_')?;
        let scales = [ScaleType::F16, ScaleType::Bf16, ScaleType::F32].into_iter().find(|s| s.name() == scales)?;
        let format = Self::Affine { bits: bits.parse().ok()?, group: group.parse().ok()?, scales };
        // Every group length divides 128, so this asks for bits and group alone.
        format.takes_cols(128).then_some(format)
    }
}

impl fmt::Display for Format {
    /// `bf16`, or `affine4g64_bf16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Bf16 => f.write_str("bf16"),
            Self::Affine { bits, group, scales } => write!(f, "affine{bits}g{group}_{}", scales.name()),
        }
    }
}

/// How a weight lies in memory when a plan runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Layout {
    /// Not chosen yet (before `assign_layout`).
    Unassigned,
    /// As the checkpoint stores it; the CPU reads the mapped file.
    Stored,
    /// One buffer of 32-bit words: the rows' codes or values, then (at a multiple of 16 bytes) the rows' scales and biases.
    Packed,
    /// Values widened to f32, e.g. norm weights, biases, rotary frequencies.
    Vector,
}

impl Layout {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Unassigned, "unassigned"),
        (Self::Stored, "stored"),
        (Self::Packed, "packed"),
        (Self::Vector, "vector"),
    ];
    /// The name in text.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(layout, _)| *layout == self).map_or("", |(_, name)| name)
    }
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, name)| *name == text).map(|(layout, _)| *layout)
    }
}

/// An order of rows in which the two that a rotation turns together are neighbours: of each head's rows, `i` and
/// `i + rot_dim / 2` become `2i` and `2i + 1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RotaryPairs {
    /// Rows a head.
    pub head_dim: u32,
    /// Rows that are rotated, the first ones; even.
    pub rot_dim: u32,
}

impl RotaryPairs {
    /// Whether the numbers make sense for `n_rows` rows.
    pub fn fits(self, n_rows: u32) -> bool {
        self.head_dim > 0
            && self.rot_dim <= self.head_dim
            && self.rot_dim.is_multiple_of(2)
            && n_rows.is_multiple_of(self.head_dim)
    }
    /// The checkpoint's row that stands at `row`.
    pub fn source_row(self, row: u32) -> u32 {
        let d = row % self.head_dim;
        if d < self.rot_dim { row - d + d / 2 + d % 2 * (self.rot_dim / 2) } else { row }
    }
}

/// Where a weight comes from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Source {
    /// A tensor of the checkpoint. For matrices the module's path (`model.layers.0.self_attn.q_proj`, whose
    /// tensors are `.weight` and perhaps `.scales` and `.biases`), for vectors the tensor's full name.
    Tensor(String),
    /// Numbers made by the model builder, e.g. rotary frequencies.
    Inline(Vec<f32>),
    /// `count` rows of another weight from row `first`.
    Rows {
        /// The whole weight.
        of: WeightId,
        /// First row.
        first: u32,
        /// Number of rows.
        count: u32,
    },
    /// Weights one below the other.
    Stack(Vec<WeightId>),
    /// Rows of two weights in turn: row 2i of the first's row i, row 2i+1 of the second's.
    Interleave(WeightId, WeightId),
    /// A checkpoint tensor's rows in another order, see [`RotaryPairs`].
    PairRows {
        /// The weight, a [`Source::Tensor`].
        of: WeightId,
        /// The order.
        order: RotaryPairs,
    },
}

/// A matrix `[n_rows, n_cols]`. A vector is one column, so that its numbers go with a matrix's rows when rows are stacked or split.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Weight {
    /// Rows (a linear layer's outputs).
    pub n_rows: u32,
    /// Columns (a linear layer's inputs).
    pub n_cols: u32,
    /// How the numbers are stored in the checkpoint.
    pub format: Format,
    /// How they lie in memory.
    pub layout: Layout,
    /// Where they come from.
    pub source: Source,
}

impl Weight {
    /// Bytes in memory in the weight's layout.
    pub fn n_bytes(&self) -> u64 {
        packed_bytes(self.format, self.layout, self.n_rows, self.n_cols)
    }
}

/// Numbers that a weight may have: no product of a size's formula reaches 64 bits.
pub const MAX_NUMBERS: u64 = 1 << 56;

/// [`packed_bytes`] of numbers from a stranger: `None` if the format is none, cannot store such rows, or has no size.
pub fn checked_bytes(format: Format, layout: Layout, n_rows: u32, n_cols: u32) -> Option<u64> {
    let stored = matches!(layout, Layout::Stored | Layout::Packed);
    let widened = layout == Layout::Vector && !matches!(format, Format::Affine { .. });
    let fits = if stored { format.takes_cols(n_cols) } else { widened };
    let small = u64::from(n_rows) * u64::from(n_cols) <= MAX_NUMBERS;
    (fits && small && n_rows > 0 && n_cols > 0).then(|| packed_bytes(format, layout, n_rows, n_cols))
}

/// Bytes of a matrix in memory.
pub fn packed_bytes(format: Format, layout: Layout, n_rows: u32, n_cols: u32) -> u64 {
    let rows = u64::from(n_rows);
    match (layout, format) {
        (Layout::Vector, _) => rows * u64::from(n_cols) * 4,
        (Layout::Packed, Format::Affine { .. }) => {
            let scales_at = scales_at_bytes(format, n_rows, n_cols);
            scales_at + (rows * format.row_bytes(n_cols) - code_bytes(format, n_rows, n_cols)).next_multiple_of(16)
        }
        (Layout::Packed, _) => (rows * format.row_bytes(n_cols)).next_multiple_of(16),
        _ => rows * format.row_bytes(n_cols),
    }
}

fn code_bytes(format: Format, n_rows: u32, n_cols: u32) -> u64 {
    match format {
        Format::Affine { bits, .. } => u64::from(n_rows) * (u64::from(n_cols) * u64::from(bits) / 8),
        _ => u64::from(n_rows) * format.row_bytes(n_cols),
    }
}

/// Where the scales begin in [`Layout::Packed`], in bytes: after the codes, at a multiple of 16.
pub fn scales_at_bytes(format: Format, n_rows: u32, n_cols: u32) -> u64 {
    code_bytes(format, n_rows, n_cols).next_multiple_of(16)
}
