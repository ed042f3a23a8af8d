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
        /// Bits a code: 1, 2, 3, 4, 5, 6 or 8.
        bits: u8,
        /// Columns a group: 32, 64 or 128.
        group: u16,
        /// Type of scale and bias.
        scales: ScaleType,
    },
    /// OCP microscaling: codes are e2m1 floats of 4 bits, with one power of two (e8m0, a byte) for 32 columns.
    Mxfp4,
    /// OCP microscaling: codes are e4m3 floats of 8 bits, with one power of two (e8m0, a byte) for 32 columns.
    Mxfp8,
    /// NVIDIA's format: codes are e2m1 floats of 4 bits, with one e4m3 float for 16 columns.
    Nvfp4 {
        /// Whether the tensor (of experts: each one's rows) has an f32 besides, the scales' factor times 448 * 6.
        global: bool,
    },
    /// Block formats of GGUF, taken apart.
    K(KFormat),
}

/// Block formats of GGUF that the affine form cannot hold, taken apart without loss: a row's codes are one little-endian
/// bit stream, as in the affine form, and each block's scales are a header of bytes. A number is `code * scale + bias`,
/// or `TABLE[code] * scale`; a group has one scale and bias, made of the header's small integers times its one or two f16
/// numbers. Headers, `d` and `m` being those numbers:
///
/// - q2_k: 16 bytes of scale (low half) and minimum (high half), d, m: `scale * d`, bias `-minimum * m`
/// - q4_k, q5_k: 8 bytes of scales, 8 bytes of minima, d, m: the same
/// - q3_k, q6_k: 16 signed bytes of scales, d, two zero bytes: `scale * d`, bias `-2^(bits - 1) * scale * d`
/// - iq4_xs: 8 signed bytes of scales, d, two zero bytes: `scale * d`
/// - iq4_nl: d
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum KFormat {
    /// 2 bits, groups of 16.
    Q2K,
    /// 3 bits, groups of 16.
    Q3K,
    /// 4 bits, groups of 32.
    Q4K,
    /// 5 bits, groups of 32.
    Q5K,
    /// 6 bits, groups of 16.
    Q6K,
    /// 4 bits into a table, groups of 32.
    Iq4Nl,
    /// 4 bits into a table, groups of 32.
    Iq4Xs,
}

impl KFormat {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Q2K, Self::Q3K, Self::Q4K, Self::Q5K, Self::Q6K, Self::Iq4Nl, Self::Iq4Xs];

    /// llama.cpp's name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Iq4Nl => "iq4_nl",
            Self::Iq4Xs => "iq4_xs",
        }
    }
    /// Bits a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Q2K => 2,
            Self::Q3K => 3,
            Self::Q4K | Self::Iq4Nl | Self::Iq4Xs => 4,
            Self::Q5K => 5,
            Self::Q6K => 6,
        }
    }
    /// Columns a scale.
    pub fn group(self) -> u32 {
        match self {
            Self::Q2K | Self::Q3K | Self::Q6K => 16,
            Self::Q4K | Self::Q5K | Self::Iq4Nl | Self::Iq4Xs => 32,
        }
    }
    /// Columns a block.
    pub fn block(self) -> u32 {
        if self == Self::Iq4Nl { 32 } else { 256 }
    }
    /// Bytes of a block's header.
    pub fn header_bytes(self) -> u32 {
        match self {
            Self::Iq4Nl => 2,
            Self::Iq4Xs => 12,
            _ => 20,
        }
    }
    /// Whether codes are places in the table.
    pub fn has_table(self) -> bool {
        matches!(self, Self::Iq4Nl | Self::Iq4Xs)
    }
}

/// Bytes of a stored row, by the tensors that they lie in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowParts {
    /// Numbers or codes.
    pub values: u64,
    /// Scales of a quantized row.
    pub scales: u64,
    /// Biases of an affine row.
    pub biases: u64,
}

/// One of the arrays of numbers that a stored matrix consists of; each has the same rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Numbers or codes.
    Values,
    /// Scales of a quantized matrix.
    Scales,
    /// Biases of an affine matrix.
    Biases,
}

impl RowParts {
    /// Bytes of a row in one of the parts.
    pub fn of(self, part: Part) -> u64 {
        match part {
            Part::Values => self.values,
            Part::Scales => self.scales,
            Part::Biases => self.biases,
        }
    }
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
        let parts = self.row_parts(n_cols);
        parts.values + parts.scales + parts.biases
    }
    /// Bytes of one row of `n_cols` numbers in each of the tensors that a checkpoint stores it in.
    pub fn row_parts(self, n_cols: u32) -> RowParts {
        let n = u64::from(n_cols);
        let parts = |values, scales, biases| RowParts { values, scales, biases };
        match self {
            Self::F32 => parts(n * 4, 0, 0),
            Self::F16 | Self::Bf16 => parts(n * 2, 0, 0),
            Self::Affine { bits, group, scales } => {
                let scale_bytes = n / u64::from(group) * scales.n_bytes();
                parts(n * u64::from(bits) / 8, scale_bytes, scale_bytes)
            }
            Self::Mxfp4 => parts(n / 2, n / 32, 0),
            Self::Mxfp8 => parts(n, n / 32, 0),
            Self::Nvfp4 { .. } => parts(n / 2, n / 16, 0),
            Self::K(k) => parts(n * u64::from(k.bits()) / 8, n / u64::from(k.block()) * u64::from(k.header_bytes()), 0),
        }
    }
    /// Whether numbers are codes with scales.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }
    /// Whether rows have a factor besides their scales.
    pub fn has_global(self) -> bool {
        self == Self::Nvfp4 { global: true }
    }
    /// Whether a row of `n_cols` can be stored in this format.
    pub fn takes_cols(self, n_cols: u32) -> bool {
        match self {
            Self::F32 => true,
            Self::F16 | Self::Bf16 => n_cols.is_multiple_of(2),
            Self::Affine { bits, group, .. } => {
                matches!(bits, 1..=6 | 8) && matches!(group, 32 | 64 | 128) && n_cols.is_multiple_of(u32::from(group))
            }
            Self::Mxfp4 | Self::Mxfp8 => n_cols.is_multiple_of(32),
            Self::Nvfp4 { .. } => n_cols.is_multiple_of(16),
            Self::K(k) => n_cols.is_multiple_of(k.block()),
        }
    }
    /// Reads what `Display` prints.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "f32" => return Some(Self::F32),
            "f16" => return Some(Self::F16),
            "bf16" => return Some(Self::Bf16),
            "mxfp4" => return Some(Self::Mxfp4),
            "mxfp8" => return Some(Self::Mxfp8),
            "nvfp4" => return Some(Self::Nvfp4 { global: false }),
            "nvfp4_global" => return Some(Self::Nvfp4 { global: true }),
            _ => {}
        }
        if let Some(k) = KFormat::ALL.into_iter().find(|k| k.name() == text) {
            return Some(Self::K(k));
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
            Self::Mxfp4 => f.write_str("mxfp4"),
            Self::Mxfp8 => f.write_str("mxfp8"),
            Self::Nvfp4 { global } => f.write_str(if *global { "nvfp4_global" } else { "nvfp4" }),
            Self::K(k) => f.write_str(k.name()),
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
    /// One buffer of 32-bit words: the rows' codes or values, then (at a multiple of 16 bytes) the rows' scales and biases,
    /// then (likewise) a factor a row, if the format has them.
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
    /// tensors are `.weight` and perhaps `.scales`, `.biases` and `.global_scale`), for vectors the tensor's full name.
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
    /// The numbers of a vector, each plus 1 once it is widened: norms that keep how far their weights are from 1.
    OnePlus(WeightId),
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
    let widened = layout == Layout::Vector && !format.is_quantized();
    let fits = if stored { format.takes_cols(n_cols) } else { widened };
    let small = u64::from(n_rows) * u64::from(n_cols) <= MAX_NUMBERS;
    (fits && small && n_rows > 0 && n_cols > 0).then(|| packed_bytes(format, layout, n_rows, n_cols))
}

/// Bytes of a matrix in memory.
pub fn packed_bytes(format: Format, layout: Layout, n_rows: u32, n_cols: u32) -> u64 {
    let rows = u64::from(n_rows);
    match (layout, format) {
        (Layout::Vector, _) => rows * u64::from(n_cols) * 4,
        (Layout::Packed, _) => {
            let factors = if format.has_global() { rows * 4 } else { 0 };
            factors_at_bytes(format, n_rows, n_cols) + factors.next_multiple_of(16)
        }
        _ => rows * format.row_bytes(n_cols),
    }
}

/// Where the scales begin in [`Layout::Packed`], in bytes: after the codes, at a multiple of 16.
pub fn scales_at_bytes(format: Format, n_rows: u32, n_cols: u32) -> u64 {
    (u64::from(n_rows) * format.row_parts(n_cols).values).next_multiple_of(16)
}

/// Where the rows' factors begin in [`Layout::Packed`], in bytes: after the scales, at a multiple of 16.
pub fn factors_at_bytes(format: Format, n_rows: u32, n_cols: u32) -> u64 {
    let parts = format.row_parts(n_cols);
    scales_at_bytes(format, n_rows, n_cols) + (u64::from(n_rows) * (parts.scales + parts.biases)).next_multiple_of(16)
}
