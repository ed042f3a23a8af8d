//! The plan: flat tables that a runtime executes. Nothing is left to decide at load but the number of KV pages.

use crate::graph::ValueId;
use crate::handle::{Arena, handle};
use crate::kernel::{Access, KernelSpec, Role, Template};
use crate::kv::{KvGroup, KvGroupId, KvLayerId, KvSpec, KvType, Window};
use crate::size::{Dims, ExprId, ExprPool};
use crate::step::{LIST_WORDS, MAX_HISTORY, StepTables, mask_words};
use crate::weight::{Format, Layout, RotaryPairs};
use serde::{Deserialize, Serialize};

handle! {
    /// A [`PlanKernel`].
    PipelineId "p"
    /// A [`PlanWeight`].
    BlobId "b"
    /// A [`Dispatch`].
    DispatchId "d"
    /// A [`Variant`].
    VariantId "x"
    /// A transient buffer.
    ArenaId "a"
}

/// Version of the tables' meaning; a runtime refuses others.
pub const PLAN_VERSION: u32 = 6;

/// Workgroups a dimension of a dispatch; a larger grid is folded into the second dimension.
pub const MAX_WORKGROUPS: u32 = 65_535;

/// Tokens, sequences, rows and attention tiles of the largest step that a plan may be made for.
pub const MAX_STEP: u32 = 1 << 20;

/// Tokens of the longest sequence that a plan may be made for.
pub const MAX_CONTEXT: u32 = 1 << 28;

/// Sequences at one time that a plan may be made for, at most.
pub const MAX_BATCH: u32 = 1 << 16;

/// Bytes that everything in a plan may have together; no sum of its sizes overflows.
pub const MAX_BYTES: u64 = 1 << 60;

/// Bindings begin at a multiple of this many bytes (WebGPU's storage offset alignment).
pub const BINDING_ALIGN: u64 = 256;

/// A run of rows of one checkpoint tensor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// Module path of a matrix, or full name of a vector.
    pub tensor: String,
    /// First row.
    pub first_row: u32,
    /// Rows.
    pub n_rows: u32,
    /// The order of the tensor's rows that `first_row` counts in; `None`: as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<RotaryPairs>,
    /// Whether 1 is added to the numbers of a vector.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plus_one: bool,
}

impl Segment {
    /// The checkpoint's row of the segment's row `ix`.
    pub fn source_row(&self, ix: u32) -> u32 {
        let row = self.first_row + ix;
        self.order.map_or(row, |order| order.source_row(row))
    }
}

/// A weight in memory.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanWeight {
    /// Rows.
    pub n_rows: u32,
    /// Columns.
    pub n_cols: u32,
    /// How the checkpoint stores the numbers.
    pub format: Format,
    /// How they lie in memory.
    pub layout: Layout,
    /// The checkpoint rows that it is made of, in order; empty if `inline` is set.
    pub segments: Vec<Segment>,
    /// Whether segments come in pairs of equal height whose rows alternate.
    pub interleaved: bool,
    /// Numbers made by the model builder.
    pub inline: Vec<f32>,
}

impl PlanWeight {
    /// Bytes in memory.
    pub fn n_bytes(&self) -> u64 {
        crate::weight::packed_bytes(self.format, self.layout, self.n_rows, self.n_cols)
    }
}

/// Where an operand of a kernel is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slot {
    /// The operand's role.
    pub role: Role,
    /// Bind group.
    pub group: u32,
    /// Binding in the group.
    pub binding: u32,
    /// How it is declared.
    pub access: Access,
}

/// A kernel, ready to be made into a pipeline.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanKernel {
    /// What it was linked from; all that the CPU needs.
    pub spec: KernelSpec,
    /// Bindings (GPU targets).
    pub slots: Vec<Slot>,
    /// Threads of a workgroup (GPU targets).
    pub workgroup: [u32; 3],
    /// Source (GPU targets).
    pub wgsl: String,
}

/// What an operand is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Binding {
    /// The step's tables.
    Step,
    /// The sampled ids and what is told of them.
    Sampled,
    /// Columns of sequences: lists and token history.
    Columns,
    /// The logits.
    Logits,
    /// A part of a transient buffer.
    Arena {
        /// The buffer.
        arena: ArenaId,
        /// First byte.
        offset: u64,
        /// Bytes.
        n_bytes: u64,
    },
    /// A weight.
    Weight(BlobId),
    /// A layer's pages.
    Kv(KvLayerId),
    /// A group's page table.
    PageTable(KvGroupId),
}

/// An operand of a dispatch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bound {
    /// Its part in the kernel.
    pub role: Role,
    /// How it is used.
    pub access: Access,
    /// What it is.
    pub binding: Binding,
}

/// One kernel launch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Dispatch {
    /// The kernel.
    pub kernel: PipelineId,
    /// Workgroups, folded at 65,535 a dimension by the runtime.
    pub grid: ExprId,
    /// First of its operands in [`Plan::operands`].
    pub first_operand: u32,
    /// Operands.
    pub n_operands: u32,
    /// The graph values that it computes (of the variant's graph).
    pub origin: Vec<ValueId>,
}

/// Tokens by which a sequence may be shortened and go on without having lost a page to its window: steps in flight ran
/// past its end, or the next turn of a conversation writes the end of an answer otherwise.
pub const REWIND_TOKENS: u32 = 16;

/// Tokens of KV that one part of a split KV takes at least.
pub const PART_TOKENS: u32 = 128;

/// The dispatches for steps of bounded sizes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Variant {
    /// Upper bounds of a step's sizes.
    pub bounds: Dims,
    /// Queries that an attention tile covers.
    pub q_tile: u32,
    /// Whether it takes only steps in which every token's logits are wanted.
    pub all_rows: bool,
    /// Longest KV that it takes: a longer one has a variant of its own, which splits it.
    pub max_kv: u32,
    /// Parts that the KV of a sequence may be split into.
    pub max_parts: u32,
    /// First of its dispatches.
    pub first: u32,
    /// Dispatches.
    pub n_dispatches: u32,
}

/// A model, compiled for a target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// Architecture and size, for people.
    pub model: String,
    /// Name of the target that it was compiled for.
    pub target: String,
    /// Whether it runs on the CPU runtime (no kernel has a source).
    pub is_cpu: bool,
    /// The table of tiles that its kernels were chosen by: a device's name and a hash. Empty for the built-in one.
    #[serde(default)]
    pub tiles: String,
    /// Vocabulary: columns of the logits.
    pub n_vocab: u32,
    /// Longest sequence: pages a page table's row can name, times [`Plan::page_tokens`].
    pub max_context: u32,
    /// Sequences at one time that the variants are made for.
    pub max_batch: u32,
    /// Tokens a page.
    pub page_tokens: u32,
    /// Type of keys and values.
    pub kv_type: KvType,
    /// The KV cache's shape.
    pub kv: KvSpec,
    /// Largest buffer binding that the target has, in bytes.
    pub max_binding_bytes: u64,
    /// Grid expressions.
    pub exprs: ExprPool,
    /// Transient buffers, in bytes.
    pub arenas: Arena<ArenaId, u64>,
    /// Weights.
    pub weights: Arena<BlobId, PlanWeight>,
    /// Kernels.
    pub kernels: Arena<PipelineId, PlanKernel>,
    /// Variants, smallest first.
    pub variants: Arena<VariantId, Variant>,
    /// Dispatches of all variants.
    pub dispatches: Arena<DispatchId, Dispatch>,
    /// Operands of all dispatches.
    pub operands: Vec<Bound>,
}

/// Tokens of a sequence's history on a GPU, of a context of so many tokens.
pub fn history_tokens(max_context: u32) -> u32 {
    max_context.clamp(1, MAX_HISTORY)
}

impl Plan {
    /// Entries of a page table's row.
    pub fn max_pages(&self) -> u32 {
        self.max_context.div_ceil(self.page_tokens)
    }
    /// Pages of each KV group for so many sequences of `context` tokens at one time. Of a group with a window a sequence
    /// has those that are seen, and a step's tokens besides.
    pub fn pages_for(&self, n_sequences: u32, context: u32) -> Vec<u32> {
        let of_all = context.div_ceil(self.page_tokens).saturating_mul(n_sequences);
        let in_step = self.max_bounds().tokens / self.page_tokens;
        let pages = |group: &KvGroup| {
            let Window { window, keep } = group.window;
            if window == 0 {
                return of_all;
            }
            // A page at each end is seen in part.
            let seen = window.saturating_add(REWIND_TOKENS).div_ceil(self.page_tokens).saturating_add(2);
            let each = seen.saturating_add(keep.div_ceil(self.page_tokens));
            of_all.min(each.saturating_mul(n_sequences).saturating_add(in_step))
        };
        self.kv.groups.as_slice().iter().map(pages).collect()
    }
    /// Bytes of one page in one layer of a group.
    pub fn page_bytes(&self, group: KvGroupId) -> u64 {
        self.kv.groups[group].shape.entry_bytes(self.kv_type) * u64::from(self.page_tokens)
    }
    /// Bytes of one page in all layers of a group.
    pub fn page_bytes_all_layers(&self, group: KvGroupId) -> u64 {
        self.page_bytes(group) * self.kv.n_layers_of(group) as u64
    }
    /// The smallest variant for a step of the given sizes.
    pub fn variant_for(&self, dims: &Dims, longest_kv: u32) -> Option<VariantId> {
        let takes =
            |v: &Variant| dims.fits(&v.bounds) && (!v.all_rows || dims.rows == dims.tokens) && longest_kv <= v.max_kv;
        self.variants.iter().find(|(_, v)| takes(v)).map(|(id, _)| id)
    }

    /// Chooses the variant of a step and fills its table of attention tiles for it; `None` if no variant takes the step.
    pub fn fit(&self, step: &mut StepTables) -> Option<VariantId> {
        // Tiles depend on the variant and the variant on the sizes, of which tiles are never the tightest.
        let dims = Dims { tiles: 0, ..step.dims() };
        let longest_kv = step.sequences.iter().map(|sequence| sequence.kv_len).max().unwrap_or(0).min(self.most_seen());
        let id = self.variant_for(&dims, longest_kv)?;
        let Variant { q_tile, max_parts, .. } = self.variants[id];
        step.tile(q_tile, longest_kv.div_ceil(PART_TOKENS).clamp(1, max_parts));
        Some(id)
    }
    /// Positions that a query sees at most, in the layers that see most.
    fn most_seen(&self) -> u32 {
        let seen = |group: &KvGroup| match group.window {
            Window { window: 0, .. } => u32::MAX,
            Window { window, keep } => window.saturating_add(keep),
        };
        self.kv.groups.as_slice().iter().map(seen).max().unwrap_or(u32::MAX)
    }
    /// A variant's dispatches.
    pub fn dispatches_of(&self, variant: VariantId) -> &[Dispatch] {
        let Variant { first, n_dispatches, .. } = self.variants[variant];
        &self.dispatches.as_slice()[first as usize..(first + n_dispatches) as usize]
    }
    /// A dispatch's operands.
    pub fn operands_of(&self, dispatch: &Dispatch) -> &[Bound] {
        &self.operands[dispatch.first_operand as usize..(dispatch.first_operand + dispatch.n_operands) as usize]
    }
    /// The largest bounds of any variant.
    pub fn max_bounds(&self) -> Dims {
        self.variants.as_slice().iter().fold(Dims::default(), |max, v| Dims {
            tokens: max.tokens.max(v.bounds.tokens),
            sequences: max.sequences.max(v.bounds.sequences),
            rows: max.rows.max(v.bounds.rows),
            tiles: max.tiles.max(v.bounds.tiles),
            filtered: max.filtered.max(v.bounds.filtered),
        })
    }
    /// Bytes of all weights in memory (on the CPU those of stored layout are the mapped file).
    pub fn weight_bytes(&self) -> u64 {
        self.weights.as_slice().iter().map(PlanWeight::n_bytes).sum()
    }
    /// Bytes of all transient buffers, the logits included.
    pub fn transient_bytes(&self) -> u64 {
        self.arenas.as_slice().iter().sum::<u64>() + self.logits_bytes()
    }
    /// Tokens of a sequence's history on a GPU.
    pub fn history_tokens(&self) -> u32 {
        history_tokens(self.max_context)
    }
    /// Words of a sequence's columns on a GPU: lists, history and mask.
    pub fn column_words(&self) -> u32 {
        self.mask_at() + mask_words(self.n_vocab)
    }
    /// The word of a sequence's columns where its mask begins.
    pub fn mask_at(&self) -> u32 {
        LIST_WORDS + self.history_tokens()
    }
    /// A variant's first dispatch that chooses tokens: those before it compute the logits.
    pub fn first_choosing(&self, variant: VariantId) -> usize {
        let Variant { first, n_dispatches, .. } = self.variants[variant];
        let of = &self.dispatches.as_slice()[first as usize..(first + n_dispatches) as usize];
        let chooses = |dispatch: &Dispatch| self.kernels[dispatch.kernel].spec.template == Template::SamplePartial;
        first as usize + of.iter().position(chooses).unwrap_or(of.len())
    }
    /// Bytes of the logits buffer.
    pub fn logits_bytes(&self) -> u64 {
        u64::from(self.max_bounds().rows) * u64::from(self.n_vocab) * 4
    }
    /// Weight bytes that one run of a variant reads, each weight once, and of experts those that a run's rows can take: what
    /// decoding is bound by.
    pub fn weight_bytes_of(&self, variant: VariantId) -> u64 {
        let mut seen = vec![false; self.weights.len()];
        let mut bytes = 0u64;
        let bounds = self.variants[variant].bounds;
        for dispatch in self.dispatches_of(variant) {
            let spec = &self.kernels[dispatch.kernel].spec;
            let by_row = spec.template == crate::kernel::Template::Embed;
            let n_rows = match spec.rows {
                crate::kernel::Rows::Tokens => bounds.tokens,
                crate::kernel::Rows::Wanted => bounds.rows,
            };
            for operand in self.operands_of(dispatch) {
                let Binding::Weight(blob) = operand.binding else { continue };
                let weight = &self.weights[blob];
                if by_row {
                    let rows = u64::from(bounds.tokens);
                    bytes = bytes.saturating_add(weight.format.row_bytes(weight.n_cols).saturating_mul(rows));
                } else if !std::mem::replace(&mut seen[blob.0 as usize], true) {
                    bytes = bytes.saturating_add(spec.bytes_read(weight.n_bytes(), n_rows.into()));
                }
            }
        }
        bytes
    }
}
