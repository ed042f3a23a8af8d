//! The kernel graph: one node a dispatch, for one bucket (an upper bound of a step's sizes).
//!
//! A node names a template of the kernel catalogue, how its open places are filled, its numbers, and what it reads
//! and writes by role. `origin` lists the graph values that it computes: their interpretation is the kernel's oracle.

use crate::IrError;
use crate::graph::{Shape, ValueId};
use crate::handle::{Arena, handle};
use crate::kv::{KvGroupId, KvLayerId};
use crate::size::{Dims, ExprId, ExprPool};
use crate::weight::{Format, WeightId};
use serde::{Deserialize, Serialize};
use std::fmt;

handle! {
    /// A [`KernelNode`].
    KernelId "k"
    /// A [`Slab`].
    SlabId "s"
}

/// Declares an enum whose variants have one name in text.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }
        impl $name {
            /// Every variant.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The name in text.
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $text,)+ } }
            /// Reads a name.
            pub fn parse(text: &str) -> Option<Self> { Self::ALL.iter().copied().find(|item| item.name() == text) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.name()) }
        }
    };
}

named! {
    /// What a kernel computes. Each is a file `shaders/kernels/NAME.wgsl` and a function of the CPU runtime.
    Template {
        /// Rows of a table, by token id.
        Embed "embed",
        /// RMS normalization.
        RmsNorm "rms_norm",
        /// Matrix product for few rows: reads the weights at memory speed.
        Matvec "matvec",
        /// Matrix product for many rows: tiled.
        Matmul "matmul",
        /// The same on matrix units, inputs rounded to half precision.
        MatmulCoop "matmul_coop",
        /// Rotary embedding of queries and keys, and the write of keys and values to their pages.
        RopeKv "rope_kv",
        /// Attention over pages.
        Attention "attention",
        /// The same on matrix units, queries and weights rounded to half precision.
        AttentionCoop "attention_coop",
        /// Attention of one query a sequence, in parts of its KV.
        AttentionDecode "attention_decode",
        /// What those parts come to.
        AttentionCombine "attention_combine",
        /// The rows whose logits are wanted.
        GatherRows "gather_rows",
        /// Element-wise ops that no other kernel took.
        Map "map",
        /// The experts that each row takes.
        MoeRoute "moe_route",
        /// Products with experts, in tiles of one expert.
        MoeOrder "moe_order",
        /// The sum of what a row's experts left.
        MoeSum "moe_sum",
        /// Adjusts logits and finds the best of each block of a row.
        SamplePartial "sample_partial",
        /// How far a row's logits lie below its greatest.
        SampleBins "sample_bins",
        /// The tokens at one distance.
        SampleGather "sample_gather",
        /// The id that the logits of a row choose that filters.
        SampleFilter "sample_filter",
        /// The id that another row's logits choose.
        SampleFinal "sample_final",
    }
}

impl Template {
    /// Whether it is a product with a matrix.
    pub fn multiplies(self) -> bool {
        matches!(self, Self::Matvec | Self::Matmul | Self::MatmulCoop)
    }

    /// Whether it reads the pages of a layer.
    pub fn reads_pages(self) -> bool {
        matches!(self, Self::Attention | Self::AttentionCoop | Self::AttentionDecode)
    }

    /// Whether it is a product of many rows, in tiles.
    pub fn is_tiled(self) -> bool {
        matches!(self, Self::Matmul | Self::MatmulCoop)
    }
}

named! {
    /// Which rows a kernel runs over.
    Rows {
        /// The step's tokens.
        Tokens "tokens",
        /// The wanted rows; inputs have one row each.
        Wanted "wanted",
    }
}

named! {
    /// What happens to a kernel's input first: a matrix product's, or queries and keys before they are rotated.
    Prologue {
        /// Nothing.
        None "none",
        /// RMS normalization with a weight; of queries and keys head by head, theirs one after the other.
        RmsNorm "rms_norm",
        /// RMS normalization of half rows that [`EpilogueOp::Normed`] left: what remains is a factor a row.
        RmsNormParts "rms_norm_parts",
    }
}

named! {
    /// An operand's part in a template; it fixes the binding.
    Role {
        /// The step's tables.
        Step "step",
        /// The sampled ids.
        Sampled "sampled",
        /// Input.
        X "x",
        /// Queries before rotation.
        Q "q",
        /// Keys before rotation.
        K "k",
        /// Values.
        V "v",
        /// The experts that each row takes, and their shares.
        Route "route",
        /// Products with experts, in tiles of one expert.
        Order "order",
        /// The matrix.
        Weight "weight",
        /// A normalization's weight.
        NormWeight "norm_weight",
        /// The weight of the normalization that follows.
        NextNorm "next_norm",
        /// Half rows (f16 times a scale, in pairs) of the result times that weight.
        Normed "normed",
        /// Sums of the result's squares, several a row.
        Squares "squares",
        /// Rotary frequencies.
        Freqs "freqs",
        /// Result.
        Out "out",
        /// First operand of the epilogue.
        Operand0 "operand0",
        /// Second operand of the epilogue.
        Operand1 "operand1",
        /// Third operand of the epilogue.
        Operand2 "operand2",
        /// A layer's pages.
        Kv "kv",
        /// A KV group's page table.
        PageTable "page_table",
        /// Columns of sequences: lists and token history.
        Columns "columns",
        /// What blocks of logits come to.
        Parts "parts",
        /// Distances of logits, counted.
        Bins "bins",
        /// Ids of one bin.
        Gathered "gathered",
    }
}

named! {
    /// How a kernel uses an operand.
    Access {
        /// Reads it.
        Read "read",
        /// Reads and writes it.
        ReadWrite "read_write",
    }
}

/// Words that a block of logits comes to: the greatest, a sum, the best and its id.
pub const PART_WORDS: u32 = 4;

/// Words of a row's bins: counts, low and high words of the masses of 256, how many ids of one of them are gathered, and of which.
pub const BIN_WORDS: u32 = 770;

/// Ids of one bin that are gathered at most, of a row with so many.
pub const fn gathered_ids(n_vocab: u32) -> u32 {
    if n_vocab < 16_384 { n_vocab } else { 16_384 }
}

/// The n-th epilogue operand's role.
pub const EPILOGUE_ROLES: [Role; 3] = [Role::Operand0, Role::Operand1, Role::Operand2];

/// An op on the accumulator of one row and column.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum EpilogueOp {
    /// Adds the column's number of operand N, `[n_cols, 1]`.
    Bias(u8),
    /// Adds operand N, same shape as the result.
    Add(u8),
    /// Adds what the result's place holds.
    AddOut,
    /// Multiplies by operand N, same shape as the result.
    Mul(u8),
    /// SiLU.
    Silu,
    /// GELU, tanh form.
    Gelu,
    /// Column pairs `(2i, 2i + 1)` become `silu(first) * second`; last in its list but for `Add` and `AddOut`.
    SiluMulPairs,
    /// The same with GELU.
    GeluMulPairs,
    /// Multiplies by the number `FACTOR`.
    Scale,
    /// `CAP * tanh(x / CAP)`, of the number `CAP`.
    Softcap,
    /// Columns are the heads of queries, keys and values: rotates queries and keys, whose pairs are neighbours, writes
    /// keys and values to their pages; the result is the queries. Last in its list, after `Bias` alone.
    RopeKv,
    /// Stores the result a second time: in half rows, times the weight of the normalization that follows; and sums of its
    /// squares. Last in its list.
    Normed,
}

impl EpilogueOp {
    /// Whether columns `2i` and `2i + 1` become one.
    pub fn pairs(self) -> bool {
        matches!(self, Self::SiluMulPairs | Self::GeluMulPairs)
    }

    /// Reads what `Display` prints.
    pub fn parse(text: &str) -> Option<Self> {
        let operand = |rest: &str| {
            rest.strip_suffix(')').and_then(|n| n.parse().ok()).filter(|n| usize::from(*n) < EPILOGUE_ROLES.len())
        };
        match text {
            "add_out" => Some(Self::AddOut),
            "silu" => Some(Self::Silu),
            "gelu" => Some(Self::Gelu),
            "silu_mul_pairs" => Some(Self::SiluMulPairs),
            "gelu_mul_pairs" => Some(Self::GeluMulPairs),
            "scale" => Some(Self::Scale),
            "softcap" => Some(Self::Softcap),
            "rope_kv" => Some(Self::RopeKv),
            "normed" => Some(Self::Normed),
            _ => match text.split_once('(')? {
                ("bias", rest) => operand(rest).map(Self::Bias),
                ("add", rest) => operand(rest).map(Self::Add),
                ("mul", rest) => operand(rest).map(Self::Mul),
                _ => None,
            },
        }
    }
}

impl fmt::Display for EpilogueOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bias(n) => write!(f, "bias({n})"),
            Self::Add(n) => write!(f, "add({n})"),
            Self::AddOut => f.write_str("add_out"),
            Self::Mul(n) => write!(f, "mul({n})"),
            Self::Silu => f.write_str("silu"),
            Self::Gelu => f.write_str("gelu"),
            Self::SiluMulPairs => f.write_str("silu_mul_pairs"),
            Self::GeluMulPairs => f.write_str("gelu_mul_pairs"),
            Self::Scale => f.write_str("scale"),
            Self::Softcap => f.write_str("softcap"),
            Self::RopeKv => f.write_str("rope_kv"),
            Self::Normed => f.write_str("normed"),
        }
    }
}

/// A number that a template is compiled with.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub enum Const {
    /// Unsigned.
    U32(u32),
    /// Single precision.
    F32(f32),
}

/// How a template's open places are filled. Equal specs are one kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KernelSpec {
    /// The template.
    pub template: Template,
    /// Format of the operand [`Role::Weight`].
    pub weight: Option<Format>,
    /// Which rows.
    pub rows: Rows,
    /// What happens to the input.
    pub prologue: Prologue,
    /// What happens to the result.
    pub epilogue: Vec<EpilogueOp>,
    /// Numbers by name, sorted by name.
    pub consts: Vec<(String, Const)>,
}

impl KernelSpec {
    /// A spec without slots.
    pub fn new(template: Template, rows: Rows) -> Self {
        Self { template, weight: None, rows, prologue: Prologue::None, epilogue: Vec::new(), consts: Vec::new() }
    }
    /// Sets a number.
    pub fn set(&mut self, name: &str, value: Const) {
        match self.consts.binary_search_by(|(other, _)| other.as_str().cmp(name)) {
            Ok(ix) => self.consts[ix].1 = value,
            Err(ix) => self.consts.insert(ix, (name.into(), value)),
        }
    }
    /// Columns of a product or of an input that make one of the result.
    pub fn columns_per_out(&self) -> u32 {
        if self.epilogue.iter().any(|op| op.pairs()) { 2 } else { 1 }
    }
    /// A number set, as u32.
    pub fn u32(&self, name: &str) -> Option<u32> {
        match self.constant(name)? {
            Const::U32(n) => Some(n),
            Const::F32(_) => None,
        }
    }
    /// A number set, as f32.
    pub fn f32(&self, name: &str) -> Option<f32> {
        match self.constant(name)? {
            Const::F32(n) => Some(n),
            Const::U32(_) => None,
        }
    }
    /// Bytes of a weight that so many rows read, each once: of a stack of experts those of as many as the rows can take.
    pub fn bytes_read(&self, n_bytes: u64, n_rows: u64) -> u64 {
        let number = |name: &str| u64::from(self.u32(name).unwrap_or(0)).max(1);
        let n_experts = number("EXPERTS");
        let taken = n_experts.min(n_rows.saturating_mul(number("TOP_K")));
        (u128::from(n_bytes) * u128::from(taken) / u128::from(n_experts)) as u64
    }
    fn constant(&self, name: &str) -> Option<Const> {
        self.consts.iter().find(|(other, _)| other == name).map(|(_, value)| *value)
    }
}

/// A value that a kernel leaves in memory for a later one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slab {
    /// The graph value that it holds (of several side by side, the last).
    pub holds: ValueId,
    /// Its shape; numbers of 32 bits.
    pub shape: Shape,
    /// The slab whose memory it takes over, once `alias` ran (in-place residuals).
    pub in_place_of: Option<SlabId>,
}

/// What an operand refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Place {
    /// The step's tables.
    Step,
    /// The sampled ids, which outlive a step.
    Sampled,
    /// Columns of sequences, which outlive a step: lists and token history.
    Columns,
    /// The logits, which the host may read.
    Logits,
    /// A slab.
    Slab(SlabId),
    /// A weight.
    Weight(WeightId),
    /// A layer's pages.
    Kv(KvLayerId),
    /// A group's page table.
    PageTable(KvGroupId),
}

/// One operand of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operand {
    /// Its part in the template.
    pub role: Role,
    /// How it is used.
    pub access: Access,
    /// What it refers to.
    pub place: Place,
}

/// One dispatch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KernelNode {
    /// The kernel.
    pub spec: KernelSpec,
    /// Its operands.
    pub operands: Vec<Operand>,
    /// Workgroups (on the CPU a hint only).
    pub grid: ExprId,
    /// The graph values that it computes.
    pub origin: Vec<ValueId>,
}

/// The dispatches of one bucket, in order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KernelGraph {
    /// Upper bounds of a step's sizes.
    pub bucket: Dims,
    /// Grid expressions.
    pub exprs: ExprPool,
    /// Values in memory.
    pub slabs: Arena<SlabId, Slab>,
    /// Dispatches in order.
    pub nodes: Arena<KernelId, KernelNode>,
}

impl KernelGraph {
    /// An empty graph for a bucket.
    pub fn new(bucket: Dims) -> Self {
        Self { bucket, exprs: ExprPool::default(), slabs: Arena::new(), nodes: Arena::new() }
    }

    /// Checks that every slab is written before it is read, that no node binds one slab both ways, that in-place
    /// chains refer backwards, and that roles occur once.
    pub fn verify(&self) -> Result<(), IrError> {
        self.exprs.verify()?;
        let mut written = vec![false; self.slabs.len()];
        for (id, slab) in self.slabs.iter() {
            if slab.in_place_of.is_some_and(|of| of >= id) {
                return Err(IrError::invalid(id, "takes over a slab that is not earlier"));
            }
        }
        for (id, node) in self.nodes.iter() {
            if node.grid.0 as usize >= self.exprs.len() {
                return Err(IrError::invalid(id, format!("grid {} does not exist", node.grid)));
            }
            for (ix, operand) in node.operands.iter().enumerate() {
                if node.operands[..ix].iter().any(|other| other.role == operand.role) {
                    return Err(IrError::invalid(id, format!("has two operands `{}`", operand.role)));
                }
                let Place::Slab(slab) = operand.place else { continue };
                if self.slabs.get(slab).is_none() {
                    return Err(IrError::invalid(id, format!("{slab} does not exist")));
                }
                let root = self.root(slab);
                let reads = operand.access == Access::Read || self.slabs[slab].in_place_of.is_some();
                if reads && !written[root.0 as usize] {
                    return Err(IrError::invalid(id, format!("reads {slab} before it is written")));
                }
                let clash = node.operands.iter().any(|other| match other.place {
                    Place::Slab(s) => self.root(s) == root && other.access != operand.access,
                    _ => false,
                });
                if clash {
                    return Err(IrError::invalid(id, format!("binds {slab} both read and read_write")));
                }
            }
            for operand in &node.operands {
                if let (Place::Slab(slab), Access::ReadWrite) = (operand.place, operand.access) {
                    written[self.root(slab).0 as usize] = true;
                }
            }
        }
        Ok(())
    }

    /// The slab whose memory a slab uses, itself unless it is in place.
    pub fn root(&self, mut slab: SlabId) -> SlabId {
        while let Some(of) = self.slabs[slab].in_place_of {
            slab = of;
        }
        slab
    }
}
