//! What a kernel is asked to be, and what it came out as. Plain data; names correspond to those of the compiler's IR.

use std::fmt;

/// Declares an enum whose variants have one name in text.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }
        impl $name {
            /// Every variant.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The name in text.
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $text,)+ } }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.name()) }
        }
    };
}

named! {
    /// What a kernel computes. Each is a file `kernels/NAME.wgsl`, whose first comment states it as a formula.
    Template {
        /// Rows of a table, by token id.
        Embed "embed",
        /// RMS normalization.
        RmsNorm "rms_norm",
        /// Matrix product for few rows.
        Matvec "matvec",
        /// Matrix product for many rows.
        Matmul "matmul",
        /// Matrix product for many rows on matrix units.
        MatmulCoop "matmul_coop",
        /// Rotary embedding, and the write of keys and values to their pages.
        RopeKv "rope_kv",
        /// Attention over pages.
        Attention "attention",
        /// Attention over pages on matrix units.
        AttentionCoop "attention_coop",
        /// Attention of one query a sequence.
        AttentionDecode "attention_decode",
        /// What its parts come to.
        AttentionCombine "attention_combine",
        /// The rows whose logits are wanted.
        GatherRows "gather_rows",
        /// Element-wise ops.
        Map "map",
        /// The experts that each row takes, and their shares.
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
    /// What happens to a matrix product's input first.
    Prologue {
        /// Nothing.
        None "none",
        /// RMS normalization with a weight.
        RmsNorm "rms_norm",
        /// RMS normalization of half rows that [`EpilogueOp::Normed`] left: what remains is a factor a row.
        RmsNormParts "rms_norm_parts",
    }
}

named! {
    /// Which instructions a kernel may use.
    Tier {
        /// WGSL without extensions.
        Plain "plain",
        /// Subgroup operations too.
        Subgroups "subgroups",
    }
}

named! {
    /// A buffer's part in a template; it fixes the binding.
    Role {
        /// The step's tables.
        Step "step",
        /// The sampled ids.
        Sampled "sampled",
        /// Input.
        X "x",
        /// Queries.
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
        /// Half rows of the result times that weight.
        Normed "normed",
        /// Sums of squares, several a row.
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
    /// How a kernel uses a buffer.
    Access {
        /// Reads it.
        Read "read",
        /// Reads and writes it.
        ReadWrite "read_write",
    }
}

named! {
    /// Type of an affine format's scales and biases.
    ScaleType {
        /// IEEE half precision.
        F16 "f16",
        /// bfloat16.
        Bf16 "bf16",
        /// IEEE single precision.
        F32 "f32",
    }
}

named! {
    /// GGUF's block formats, taken apart: codes, then from a multiple of 16 bytes each block's header.
    KFormat {
        /// 2 bits, groups of 16.
        Q2K "q2_k",
        /// 3 bits, groups of 16.
        Q3K "q3_k",
        /// 4 bits, groups of 32.
        Q4K "q4_k",
        /// 5 bits, groups of 32.
        Q5K "q5_k",
        /// 6 bits, groups of 16.
        Q6K "q6_k",
        /// 4 bits into a table, groups of 32, a header for each.
        Iq4Nl "iq4_nl",
        /// 4 bits into a table, groups of 32.
        Iq4Xs "iq4_xs",
    }
}

/// How a weight's numbers lie in its buffer of 32-bit words, row by row; see the providers `slot/weight_*.wgsl`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WeightFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision, two a word.
    F16,
    /// bfloat16, two a word.
    Bf16,
    /// Affine quantization: codes, then from a multiple of 16 bytes a scale and bias for each `group` columns.
    Affine {
        /// Bits a code: 1, 2, 3, 4, 5, 6 or 8.
        bits: u8,
        /// Columns a group: 32, 64 or 128.
        group: u16,
        /// Type of scale and bias.
        scales: ScaleType,
    },
    /// e2m1 codes, then from a multiple of 16 bytes an e8m0 scale for 32 columns.
    Mxfp4,
    /// e4m3 codes, then from a multiple of 16 bytes an e8m0 scale for 32 columns.
    Mxfp8,
    /// e2m1 codes, then from a multiple of 16 bytes an e4m3 scale for 16 columns.
    Nvfp4 {
        /// Whether an f32 factor a row follows, from a multiple of 16 bytes.
        global: bool,
    },
    /// Codes with headers; see the providers `slot/scale_*.wgsl`.
    K(KFormat),
}

impl fmt::Display for WeightFormat {
    /// `bf16`, or `affine4g64_bf16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Bf16 => f.write_str("bf16"),
            Self::Affine { bits, group, scales } => write!(f, "affine{bits}g{group}_{scales}"),
            Self::Mxfp4 => f.write_str("mxfp4"),
            Self::Mxfp8 => f.write_str("mxfp8"),
            Self::Nvfp4 { global } => f.write_str(if *global { "nvfp4_global" } else { "nvfp4" }),
            Self::K(k) => f.write_str(k.name()),
        }
    }
}

/// An op on the result of one row and column, before it is stored. The operand number N is [`Role::Operand0`] + N.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EpilogueOp {
    /// Adds the column's number of operand N, f32 `[columns]`. Before [`Self::SiluMulPairs`] the columns are those before it.
    Bias(u8),
    /// Adds operand N, f32, one row of result columns after another.
    Add(u8),
    /// Adds what the result's place holds.
    AddOut,
    /// Multiplies by operand N, f32, one row of result columns after another.
    Mul(u8),
    /// SiLU.
    Silu,
    /// GELU, tanh form.
    Gelu,
    /// Column pairs `(2i, 2i + 1)` become column i, `silu(first) * second`.
    SiluMulPairs,
    /// Column pairs `(2i, 2i + 1)` become column i, `gelu(first) * second`.
    GeluMulPairs,
    /// Multiplies by the constant FACTOR.
    Scale,
    /// `CAP * tanh(x / CAP)` with the constant CAP.
    Softcap,
    /// Columns are the heads of queries, keys and values: rotates pairs `(2i, 2i + 1)` of queries and keys by their
    /// token's position, writes keys and values to its page; the queries remain. Matvec only, last, after `Bias` alone.
    RopeKv,
    /// Stores the result a second time, in half rows and times the weight of the normalization that follows, and sums of
    /// its squares. Matvec only, last.
    Normed,
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
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Const {
    /// Unsigned.
    U32(u32),
    /// Single precision, finite.
    F32(f32),
}

/// How a template's open places are filled. Equal specs are one kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct KernelSpec {
    /// The template.
    pub template: Template,
    /// Format of [`Role::Weight`], for templates with a weight slot.
    pub weight: Option<WeightFormat>,
    /// Which rows, for templates with a rows slot (others ignore it).
    pub rows: Rows,
    /// What happens to the input (matvec only).
    pub prologue: Prologue,
    /// What happens to the result, for templates with an epilogue slot.
    pub epilogue: Vec<EpilogueOp>,
    /// Numbers by name; see [`crate::const_rules`]. Order does not matter.
    pub consts: Vec<(String, Const)>,
    /// Which instructions.
    pub tier: Tier,
}

impl KernelSpec {
    /// A spec with empty slots and no numbers.
    pub fn new(template: Template, tier: Tier) -> Self {
        Self {
            template,
            weight: None,
            rows: Rows::Tokens,
            prologue: Prologue::None,
            epilogue: Vec::new(),
            consts: Vec::new(),
            tier,
        }
    }
    /// The same with an unsigned number set.
    pub fn with(mut self, name: &str, value: u32) -> Self {
        self.set(name, Const::U32(value));
        self
    }
    /// The same with a float set.
    pub fn with_f32(mut self, name: &str, value: f32) -> Self {
        self.set(name, Const::F32(value));
        self
    }
    /// Sets a number.
    pub fn set(&mut self, name: &str, value: Const) {
        match self.consts.iter_mut().find(|(other, _)| other == name) {
            Some(entry) => entry.1 = value,
            None => self.consts.push((name.into(), value)),
        }
    }
}

/// A buffer that a kernel binds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BindingInfo {
    /// Its part.
    pub role: Role,
    /// Bind group.
    pub group: u32,
    /// Binding in the group.
    pub binding: u32,
    /// How it is used.
    pub access: Access,
}

/// A module of plain WGSL with one entry point, `main`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkedKernel {
    /// The text, as naga takes it; see [`crate::wgsl_for`] for others.
    pub wgsl: String,
    /// Invocations a workgroup.
    pub workgroup_size: [u32; 3],
    /// Bindings by group and number.
    pub bindings: Vec<BindingInfo>,
}

/// What a grid is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GridUnit {
    /// The step's tokens.
    Tokens,
    /// The wanted rows.
    Rows,
    /// Attention tiles.
    Tiles,
    /// Wanted rows up to the last that filters.
    Filtered,
    /// Nothing of the step: the count is 1.
    One,
}

/// Workgroups that a kernel takes: `(ceil(count * each / unit_div) + more) * times`, to be folded at 65,535 a dimension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GridRule {
    /// What is counted.
    pub per: GridUnit,
    /// Units that each makes.
    pub each: u32,
    /// Units a workgroup takes at once.
    pub unit_div: u32,
    /// Portions besides.
    pub more: u32,
    /// Workgroups for each such portion.
    pub times: u32,
}
