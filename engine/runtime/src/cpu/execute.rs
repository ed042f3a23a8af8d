//! Executes a plan's steps on the processor: the plan that a GPU would run, with native kernels.
//!
//! Matrices stay where the checkpoint is mapped; what a dispatch needs is looked up at load, so that a step looks up
//! nothing by name.
#![allow(unsafe_code)]

mod profile;

use super::activations::Activations;
use super::attention::{Attention, attention};
use super::linear::experts::{ExpertLinear, expert_linear};
use super::linear::{Linear, NormPrologue, linear};
use super::moe::{MoeSum, moe_route, moe_sum};
use super::pages::PageLayout;
use super::pool::Pool;
use super::rope_kv::{Columns, HeadNorms, RopeKv, rope_kv};
use super::sample::{argmax_final, argmax_partial};
use super::step_view::{Rows as StepRows, StepView};
use super::weight::{FloatType, Format as CpuFormat, Segment, SmallFloat, Weight};
use super::{EpilogueOp as CpuOp, Scratch, embed::embed, gather::gather_rows, map::map, norm::rms_norm};
use crate::account::{Account, Reservation};
use crate::backend::{MemoryUse, StepInput, StepOutput};
use crate::budget;
use crate::error::RuntimeError;
use crate::world::Limits;
use ingot_ir::kernel::{EPILOGUE_ROLES, EpilogueOp, KernelSpec, PART_WORDS, Prologue, Role, Rows, Template};
use ingot_ir::kv::{KvGroupId, KvLayerId};
use ingot_ir::plan::{Binding, Bound, Dispatch, Plan};
use ingot_ir::weight::{Format, Layout, ScaleType};
use std::sync::Arc;

/// A checkpoint tensor as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    /// Numbers, or the codes of a quantized tensor.
    pub codes: &'a [u8],
    /// Scales of a quantized tensor, else empty.
    pub scales: &'a [u8],
    /// Biases of an affine tensor, else empty.
    pub biases: &'a [u8],
    /// Global scales (f32) of a tensor whose format has them: one for all rows, or one for each equal part of them.
    pub global: &'a [u8],
}

/// Where a plan's matrices lie: mapped checkpoint files.
pub trait WeightSource: Send + Sync {
    /// A tensor by the name that the plan's segments use.
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>>;
    /// All of a vector (norm weight, bias), widened to f32.
    fn vector(&self, weight: &ingot_ir::plan::PlanWeight) -> Vec<f32>;
}

/// A weight, found.
enum Held {
    Matrix { n_cols: usize, segments: Vec<Segment<'static>>, interleaved: bool },
    Vector(Vec<f32>),
}

/// An epilogue op with its operand found.
#[derive(Clone, Copy)]
enum Tail {
    Bias(Binding),
    Add(Binding),
    Mul(Binding),
    AddOut,
    Silu,
    Gelu,
    SiluMulPairs,
    GeluMulPairs,
    Scale(f32),
    Softcap(f32),
}

/// What a dispatch does, its numbers looked up.
enum Work {
    Embed {
        weight: Binding,
        row_first: usize,
        scale: f32,
    },
    RmsNorm {
        x: Binding,
        columns: (usize, usize),
        n_runs: usize,
        weight: Binding,
        eps: f32,
    },
    Linear {
        x: Binding,
        weight: Binding,
        norm: Option<(Binding, f32)>,
        stride: usize,
        at: usize,
    },
    ExpertLinear {
        x: Binding,
        route: Binding,
        weight: Binding,
        norm: Option<(Binding, f32)>,
        numbers: ExpertNumbers,
    },
    MoeRoute {
        x: Binding,
        n_experts: usize,
        top_k: usize,
        renormalize: bool,
    },
    MoeSum {
        x: Binding,
        route: Binding,
        top_k: usize,
    },
    RopeKv {
        q: Binding,
        k: Binding,
        v: Binding,
        freqs: Binding,
        norms: Option<(Binding, f32)>,
        kv: usize,
        numbers: RopeNumbers,
    },
    Attention {
        q: Binding,
        kv: usize,
        page_table: usize,
        numbers: AttentionNumbers,
    },
    Gather {
        x: Binding,
        n_cols: usize,
    },
    Map {
        x: Binding,
        n_cols: usize,
    },
    ArgmaxPartial {
        x: Binding,
        n: usize,
        block: usize,
    },
    ArgmaxFinal {
        parts: Binding,
        n_blocks: usize,
    },
}

struct ExpertNumbers {
    n_experts: usize,
    first_expert: usize,
    top_k: usize,
    each: bool,
}

struct RopeNumbers {
    n_heads: usize,
    layout: PageLayout,
    rot_dim: usize,
    neighbours: bool,
    /// Stride and first column of q, k and v.
    columns: [(usize, usize); 3],
    kv_group: usize,
    scale: f32,
}

struct AttentionNumbers {
    n_heads: usize,
    layout: PageLayout,
    scale: f32,
    q_tile: usize,
    window: usize,
    keep: usize,
    softcap: f32,
    max_pages: usize,
}

struct Launch {
    work: Work,
    rows: Rows,
    tail: Vec<Tail>,
    out: Binding,
    /// Numbers a row of the epilogue's operands.
    stride: usize,
}

/// How a plan is run.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// Threads, the caller's included.
    pub n_threads: usize,
    /// Bytes that may be used, mapped weights included; `None`: three quarters of the machine's memory.
    pub budget_bytes: Option<u64>,
    /// Where the bytes are counted besides, under a limit of its own.
    pub account: Account,
    /// What quantized matrices are multiplied with.
    pub activations: Activations,
}

/// Not a number in single precision, and twice in half precision.
const NOT_A_NUMBER: u32 = 0x7fff_ffff;

/// A plan on the processor.
pub struct CpuBackend {
    pool: Pool,
    activations: Activations,
    scratch: Scratch,
    launches: Vec<Launch>,
    spans: Vec<(usize, usize)>,
    memory: Buffers,
    finished: Option<(u32, bool, u64)>,
    n_vocab: usize,
    max_pages: usize,
    /// Words of a page, by layer.
    page_words: Vec<usize>,
    used: u64,
    account: Account,
    _reservation: Reservation,
    /// Keeps the bytes that the matrices' segments borrow; last, so that it is dropped last.
    _source: Arc<dyn WeightSource>,
}

struct Buffers {
    sampled: Vec<u32>,
    logits: Vec<f32>,
    arenas: Vec<Vec<f32>>,
    weights: Vec<Held>,
    kv: Vec<Vec<u32>>,
    page_tables: Vec<Vec<u32>>,
}

impl Buffers {
    fn read(&self, binding: Binding) -> &[f32] {
        match binding {
            Binding::Arena { arena, offset, n_bytes } => {
                &self.arenas[arena.0 as usize][offset as usize / 4..(offset + n_bytes) as usize / 4]
            }
            Binding::Logits => &self.logits,
            Binding::Weight(blob) => match &self.weights[blob.0 as usize] {
                Held::Vector(numbers) => numbers,
                Held::Matrix { .. } => unreachable!("a matrix is read as one"),
            },
            _ => unreachable!("numbers are read from arenas, logits and vectors"),
        }
    }
    fn matrix(&self, binding: Binding) -> Weight<'_> {
        let Binding::Weight(blob) = binding else { unreachable!("a matrix is a weight") };
        match &self.weights[blob.0 as usize] {
            Held::Matrix { n_cols, segments, interleaved } => {
                Weight::new(*n_cols, segments, *interleaved).unwrap_or_else(|e| unreachable!("checked at load: {e}"))
            }
            Held::Vector(_) => unreachable!("a vector is read as one"),
        }
    }
    /// Takes the buffer that a binding writes to, so that others can be read beside it. It is put back afterwards.
    fn take(&mut self, binding: Binding) -> Vec<f32> {
        match binding {
            Binding::Arena { arena, .. } => std::mem::take(&mut self.arenas[arena.0 as usize]),
            Binding::Logits => std::mem::take(&mut self.logits),
            _ => Vec::new(),
        }
    }
    fn put(&mut self, binding: Binding, buffer: Vec<f32>) {
        match binding {
            Binding::Arena { arena, .. } => self.arenas[arena.0 as usize] = buffer,
            Binding::Logits => self.logits = buffer,
            _ => {}
        }
    }
}

impl CpuBackend {
    /// Loads a plan. Fails before it allocates if the budget does not suffice; mapped weights count as used.
    pub fn load(
        plan: &Plan,
        source: Arc<dyn WeightSource>,
        limits: Limits,
        options: CpuOptions,
    ) -> Result<Self, RuntimeError> {
        plan.verify()?;
        if !plan.is_cpu {
            return Err(RuntimeError::WrongTarget { target: plan.target.clone(), device: "the CPU".into() });
        }
        let budget_bytes = options.budget_bytes.or_else(budget::ram_budget);
        let used = budget::check(plan, &limits, budget_bytes, &options.account)?;
        let reservation = options
            .account
            .reserve(used)
            .ok_or_else(|| RuntimeError::Cpu("another model has just taken the memory; load again".into()))?;
        let held = plan.weights.as_slice().iter().map(|weight| hold(weight, &source)).collect::<Result<_, _>>()?;
        let zeros = |n_bytes: u64| vec![0.0f32; n_bytes as usize / 4];
        let layer_bytes = |group| plan.page_bytes(group) * u64::from(limits.n_pages[group.0 as usize]);
        let table = limits.max_sequences as usize * plan.max_pages() as usize;
        let memory = Buffers {
            sampled: vec![0; plan.max_bounds().rows as usize],
            logits: zeros(plan.logits_bytes()),
            arenas: plan.arenas.as_slice().iter().map(|n| zeros(*n)).collect(),
            weights: held,
            kv: plan.kv.layers.as_slice().iter().map(|l| vec![0; layer_bytes(l.group) as usize / 4]).collect(),
            page_tables: vec![vec![0; table]; plan.kv.groups.len()],
        };
        let launches =
            plan.dispatches.as_slice().iter().map(|dispatch| prepare(plan, dispatch)).collect::<Result<_, _>>()?;
        Ok(Self {
            pool: Pool::new(options.n_threads),
            activations: options.activations,
            scratch: Scratch::new(),
            launches,
            spans: plan.variants.as_slice().iter().map(|v| (v.first as usize, v.n_dispatches as usize)).collect(),
            memory,
            finished: None,
            n_vocab: plan.n_vocab as usize,
            max_pages: plan.max_pages() as usize,
            page_words: plan.kv.layers.as_slice().iter().map(|l| plan.page_bytes(l.group) as usize / 4).collect(),
            used,
            account: options.account,
            _reservation: reservation,
            _source: source,
        })
    }

    /// Where its memory is counted besides.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Runs a step to its end.
    pub fn submit(&mut self, step: &StepInput<'_>) -> Result<(), RuntimeError> {
        let started = std::time::Instant::now();
        let view = StepView::new(step.words).ok_or_else(|| RuntimeError::Cpu("the step block is damaged".into()))?;
        let (first, n) = self.spans[step.variant.0 as usize];
        for launch in &self.launches[first..first + n] {
            run(launch, view, &self.pool, self.activations, &mut self.scratch, &mut self.memory);
        }
        self.finished = Some((step.dims.rows, step.want_logits, started.elapsed().as_nanos() as u64));
        Ok(())
    }

    /// The finished step's result.
    pub fn poll(&mut self, out: &mut StepOutput) -> bool {
        let Some((n_rows, with_logits, ns)) = self.finished.take() else { return false };
        out.sampled.clear();
        out.sampled.extend_from_slice(&self.memory.sampled[..n_rows as usize]);
        out.logits.clear();
        if with_logits {
            out.logits.extend_from_slice(&self.memory.logits[..n_rows as usize * self.n_vocab]);
        }
        out.device_ns = Some(ns);
        true
    }

    /// Writes entries of a page table's row.
    pub fn write_pages(&mut self, group: KvGroupId, row: u32, first: u32, pages: &[u32]) {
        let at = row as usize * self.max_pages + first as usize;
        self.memory.page_tables[group.0 as usize][at..at + pages.len()].copy_from_slice(pages);
    }

    /// The words of pages of a layer, one page after the other.
    pub fn read_pages(&self, layer: KvLayerId, pages: &[u32]) -> Vec<u32> {
        let n = self.page_words[layer.0 as usize];
        let kv = &self.memory.kv[layer.0 as usize];
        pages.iter().flat_map(|page| &kv[*page as usize * n..(*page as usize + 1) * n]).copied().collect()
    }

    /// Writes the words of a page of a layer.
    pub fn write_page(&mut self, layer: KvLayerId, page: u32, words: &[u32]) {
        let n = self.page_words[layer.0 as usize];
        self.memory.kv[layer.0 as usize][page as usize * n..][..n].copy_from_slice(words);
    }

    /// Fills transient buffers and logits with NaN, and the pages of keys and values unless `keep_kv`. For tests: a
    /// kernel that reads what no kernel has written shows it in its result.
    pub fn poison(&mut self, keep_kv: bool) {
        self.memory.logits.fill(f32::NAN);
        self.memory.arenas.iter_mut().for_each(|arena| arena.fill(f32::NAN));
        if !keep_kv {
            self.memory.kv.iter_mut().for_each(|pages| pages.fill(NOT_A_NUMBER));
        }
    }

    /// Bytes in use; all is allocated at load.
    pub fn memory(&self) -> MemoryUse {
        let used = self.used + self.scratch.size_bytes() as u64;
        MemoryUse { active: used, peak: used }
    }
}

fn float_type(format: Format) -> Option<FloatType> {
    match format {
        Format::F32 => Some(FloatType::F32),
        Format::F16 => Some(FloatType::F16),
        Format::Bf16 => Some(FloatType::Bf16),
        _ => None,
    }
}

/// Which of a tensor's `n_global` global scales belong to a segment: rows within one part of the tensor, or whole parts.
fn factor_range(
    segment: &ingot_ir::plan::Segment,
    n_tensor_rows: usize,
    n_global: usize,
) -> Option<std::ops::Range<usize>> {
    let part = n_tensor_rows.checked_div(n_global).filter(|part| *part > 0)?;
    let (first, end) = (segment.first_row as usize, (segment.first_row + segment.n_rows) as usize);
    let (from, until) = (first / part, end.div_ceil(part));
    let whole = first.is_multiple_of(part) && end.is_multiple_of(part);
    (whole || until - from == 1).then_some(from..until)
}

/// Finds a weight's rows in the checkpoint.
fn hold(weight: &ingot_ir::plan::PlanWeight, source: &Arc<dyn WeightSource>) -> Result<Held, RuntimeError> {
    if weight.layout == Layout::Vector {
        return Ok(Held::Vector(source.vector(weight)));
    }
    let n_cols = weight.n_cols as usize;
    let format = match weight.format {
        Format::Affine { bits, group, scales } => {
            let scale = match scales {
                ScaleType::F16 => FloatType::F16,
                ScaleType::Bf16 => FloatType::Bf16,
                ScaleType::F32 => FloatType::F32,
            };
            CpuFormat::Affine { bits: u32::from(bits), group: usize::from(group), scale }
        }
        Format::Mxfp4 => CpuFormat::SmallFloat(SmallFloat::Mxfp4),
        Format::Mxfp8 => CpuFormat::SmallFloat(SmallFloat::Mxfp8),
        Format::Nvfp4 { .. } => CpuFormat::SmallFloat(SmallFloat::Nvfp4),
        Format::K(k) => CpuFormat::K(k),
        float => CpuFormat::Float(float_type(float).unwrap_or_else(|| unreachable!("the others are matched above"))),
    };
    let (row_bytes, (scale_bytes, bias_bytes)) = (format.row_bytes(n_cols), format.scale_bytes(n_cols));
    let find = |segment: &ingot_ir::plan::Segment| {
        if segment.order.is_some() {
            return Err(RuntimeError::Cpu(format!("it reads the rows of {} in their own order", segment.tensor)));
        }
        let found = source.tensor(&segment.tensor);
        let tensor =
            found.ok_or_else(|| RuntimeError::Cpu(format!("the checkpoint has no tensor {}", segment.tensor)))?;
        let rows = |bytes: &[u8], row_bytes: usize| -> Option<&'static [u8]> {
            let first = segment.first_row as usize * row_bytes;
            let part = bytes.get(first..first + segment.n_rows as usize * row_bytes)?;
            // SAFETY: the bytes are borrowed from `source`, of which the backend keeps an Arc that is dropped after
            // every segment; an Arc gives shared access only, so the bytes neither move nor change meanwhile.
            Some(unsafe { std::slice::from_raw_parts(part.as_ptr(), part.len()) })
        };
        let parts = (rows(tensor.codes, row_bytes), rows(tensor.scales, scale_bytes), rows(tensor.biases, bias_bytes));
        let (Some(codes), Some(scales), Some(biases)) = parts else {
            return Err(RuntimeError::Cpu(format!("tensor {} is smaller than the plan says", segment.tensor)));
        };
        let mut factors: &'static [u8] = &[];
        if weight.format.has_global() {
            let range = factor_range(segment, tensor.codes.len() / row_bytes.max(1), tensor.global.len() / 4);
            let part = range.and_then(|range| tensor.global.get(4 * range.start..4 * range.end)).ok_or_else(|| {
                RuntimeError::Cpu(format!("global scales of tensor {} do not go with the plan's rows", segment.tensor))
            })?;
            // SAFETY: as above.
            factors = unsafe { std::slice::from_raw_parts(part.as_ptr(), part.len()) };
        }
        Ok(Segment { n_rows: segment.n_rows as usize, format, codes, scales, biases, factors })
    };
    let segments = weight.segments.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    // SAFETY of the later uses: sizes are checked here once.
    Weight::new(n_cols, &segments, weight.interleaved).map_err(|e| RuntimeError::Cpu(e.to_string()))?;
    Ok(Held::Matrix { n_cols, segments, interleaved: weight.interleaved })
}

/// Looks up everything that a dispatch needs.
fn prepare(plan: &Plan, dispatch: &Dispatch) -> Result<Launch, RuntimeError> {
    let spec = &plan.kernels[dispatch.kernel].spec;
    let operands = plan.operands_of(dispatch);
    let bad = |what: &str| RuntimeError::Cpu(format!("a {} without {what}", spec.template));
    let operand = |role: Role| {
        operands.iter().find(|o: &&Bound| o.role == role).map(|o| o.binding).ok_or_else(|| bad(role.name()))
    };
    let n = |name: &str| spec.u32(name).map(|n| n as usize).ok_or_else(|| bad(name));
    let f = |name: &str| spec.f32(name).ok_or_else(|| bad(name));
    let layout = || -> Result<PageLayout, RuntimeError> {
        Ok(PageLayout { kv: plan.kv_type, n_kv_heads: n("N_KV_HEADS")?, head_dim: n("HEAD_DIM")? })
    };
    let kv = || match operand(Role::Kv)? {
        Binding::Kv(layer) => Ok(layer.0 as usize),
        _ => Err(bad("pages")),
    };
    let norm = || match spec.prologue {
        Prologue::None => Ok(None),
        Prologue::RmsNorm => Ok(Some((operand(Role::NormWeight)?, f("EPS")?))),
        Prologue::RmsNormParts => Err(RuntimeError::Cpu("it has no half rows".into())),
    };
    let (work, stride) = match spec.template {
        Template::Embed => {
            let (weight, row_first, scale) =
                (operand(Role::Weight)?, n("ROW_FIRST")?, spec.f32("SCALE").unwrap_or(1.0));
            (Work::Embed { weight, row_first, scale }, n("N_COLS")?)
        }
        Template::RmsNorm => {
            let columns = (n("X_STRIDE")?, n("X_AT")?);
            let (x, weight) = (operand(Role::X)?, operand(Role::NormWeight)?);
            let n_runs = n("RUNS")?;
            (Work::RmsNorm { x, columns, n_runs, weight, eps: f("EPS")? }, n_runs.saturating_mul(n("N_COLS")?))
        }
        Template::Matvec | Template::Matmul => {
            let norm = norm()?;
            let n_out = n("N")? / spec.columns_per_out() as usize;
            if spec.u32("EXPERTS").is_some() {
                let numbers = ExpertNumbers {
                    n_experts: n("EXPERT_COUNT")?,
                    first_expert: n("EXPERT_FIRST")?,
                    top_k: n("TOP_K")?,
                    each: n("X_EACH")? == 1,
                };
                let [x, route, weight] = [operand(Role::X)?, operand(Role::Route)?, operand(Role::Weight)?];
                let work = Work::ExpertLinear { x, route, weight, norm, numbers };
                let tail = spec.epilogue.iter().map(|op| tail(spec, *op, &operand)).collect::<Result<_, _>>()?;
                return Ok(Launch { work, rows: spec.rows, tail, out: operand(Role::Out)?, stride: n_out });
            }
            let (stride, at) = (n("OUT_STRIDE")?, n("OUT_AT")?);
            // Operands have the result's columns alone, also where those are a part of wider rows.
            (Work::Linear { x: operand(Role::X)?, weight: operand(Role::Weight)?, norm, stride, at }, n_out)
        }
        Template::RopeKv => {
            let numbers = RopeNumbers {
                n_heads: n("N_HEADS")?,
                layout: layout()?,
                rot_dim: n("ROT_DIM")?,
                neighbours: spec.u32("NEIGHBOURS") == Some(1),
                columns: [(n("Q_STRIDE")?, n("Q_AT")?), (n("K_STRIDE")?, n("K_AT")?), (n("V_STRIDE")?, n("V_AT")?)],
                kv_group: n("KV_GROUP")?,
                scale: f("ROPE_SCALE")?,
            };
            let stride = numbers.n_heads * numbers.layout.head_dim;
            let [q, k, v, freqs] = [operand(Role::Q)?, operand(Role::K)?, operand(Role::V)?, operand(Role::Freqs)?];
            (Work::RopeKv { q, k, v, freqs, norms: norm()?, kv: kv()?, numbers }, stride)
        }
        Template::AttentionDecode | Template::AttentionCombine => {
            return Err(RuntimeError::Cpu("it has no attention in parts".into()));
        }
        Template::Attention => {
            let numbers = AttentionNumbers {
                n_heads: n("N_HEADS")?,
                layout: layout()?,
                scale: f("SCALE")?,
                q_tile: n("Q_TILE")?,
                window: n("WINDOW")?,
                keep: n("KEEP")?,
                softcap: f("SOFTCAP")?,
                max_pages: n("MAX_PAGES")?,
            };
            let stride = numbers.n_heads * numbers.layout.head_dim;
            let Binding::PageTable(group) = operand(Role::PageTable)? else { return Err(bad("page table")) };
            (Work::Attention { q: operand(Role::Q)?, kv: kv()?, page_table: group.0 as usize, numbers }, stride)
        }
        Template::MoeRoute => {
            let (n_experts, top_k) = (n("EXPERTS")?, n("TOP_K")?);
            let renormalize = n("RENORMALIZE")? == 1;
            (Work::MoeRoute { x: operand(Role::X)?, n_experts, top_k, renormalize }, 2 * top_k)
        }
        Template::MoeSum => {
            (Work::MoeSum { x: operand(Role::X)?, route: operand(Role::Route)?, top_k: n("TOP_K")? }, n("N_COLS")?)
        }
        Template::GatherRows => (Work::Gather { x: operand(Role::X)?, n_cols: n("N_COLS")? }, n("N_COLS")?),
        Template::Map => {
            let n_cols = n("N_COLS")?;
            (Work::Map { x: operand(Role::X)?, n_cols }, n_cols / spec.columns_per_out() as usize)
        }
        Template::SamplePartial => {
            let (width, block) = (n("N")?, n("BLOCK")?);
            let stride = width.div_ceil(block) * PART_WORDS as usize;
            (Work::ArgmaxPartial { x: operand(Role::X)?, n: width, block }, stride)
        }
        Template::SampleFinal => {
            (Work::ArgmaxFinal { parts: operand(Role::Parts)?, n_blocks: n("N")?.div_ceil(n("BLOCK")?) }, 1)
        }
        Template::SampleBins | Template::SampleFilter => {
            return Err(RuntimeError::Cpu("it chooses by more than the greatest elsewhere".into()));
        }
    };
    let tail = spec.epilogue.iter().map(|op| tail(spec, *op, &operand)).collect::<Result<_, _>>()?;
    Ok(Launch { work, rows: spec.rows, tail, out: operand(Role::Out)?, stride })
}

fn tail(
    spec: &KernelSpec,
    op: EpilogueOp,
    operand: &dyn Fn(Role) -> Result<Binding, RuntimeError>,
) -> Result<Tail, RuntimeError> {
    let nth = |ix: u8| {
        let role = EPILOGUE_ROLES.get(usize::from(ix)).copied();
        role.ok_or_else(|| RuntimeError::Cpu(format!("a {} with too many operands", spec.template))).and_then(operand)
    };
    let number =
        |name: &str| spec.f32(name).ok_or_else(|| RuntimeError::Cpu(format!("a {} without {name}", spec.template)));
    Ok(match op {
        EpilogueOp::Bias(ix) => Tail::Bias(nth(ix)?),
        EpilogueOp::Add(ix) => Tail::Add(nth(ix)?),
        EpilogueOp::Mul(ix) => Tail::Mul(nth(ix)?),
        EpilogueOp::AddOut => Tail::AddOut,
        EpilogueOp::Silu => Tail::Silu,
        EpilogueOp::Gelu => Tail::Gelu,
        EpilogueOp::SiluMulPairs => Tail::SiluMulPairs,
        EpilogueOp::GeluMulPairs => Tail::GeluMulPairs,
        EpilogueOp::Scale => Tail::Scale(number("FACTOR")?),
        EpilogueOp::Softcap => Tail::Softcap(number("CAP")?),
        EpilogueOp::RopeKv => return Err(RuntimeError::Cpu("it does not rotate in a product's epilogue".into())),
        EpilogueOp::Normed => return Err(RuntimeError::Cpu("it has no half rows".into())),
    })
}

/// Most epilogue ops of one kernel.
const MAX_TAIL: usize = 8;

/// Numbers of a range that is written.
fn out_len(out: Binding) -> usize {
    match out {
        Binding::Arena { n_bytes, .. } => n_bytes as usize / 4,
        _ => 0,
    }
}

/// Runs one dispatch.
fn run(
    launch: &Launch,
    step: StepView<'_>,
    pool: &Pool,
    activations: Activations,
    scratch: &mut Scratch,
    memory: &mut Buffers,
) {
    // What is written is taken out, so that the rest can be read beside it: of an arena the ranges before and after.
    let mut buffer = memory.take(launch.out);
    let mut pages = match launch.work {
        Work::RopeKv { kv, .. } => std::mem::take(&mut memory.kv[kv]),
        _ => Vec::new(),
    };
    let mut sampled = match launch.work {
        Work::ArgmaxFinal { .. } => std::mem::take(&mut memory.sampled),
        _ => Vec::new(),
    };
    let (before, out, after, lent) = match launch.out {
        Binding::Arena { arena, offset, n_bytes } => {
            let (before, rest) = buffer.split_at_mut(offset as usize / 4);
            let (out, after) = rest.split_at_mut(n_bytes as usize / 4);
            (&*before, out, &*after, Some(arena))
        }
        _ => (&[][..], &mut buffer[..], &[][..], None),
    };
    let whole = &*memory;
    let read = |binding: Binding| match binding {
        Binding::Arena { arena, offset, n_bytes } if Some(arena) == lent => {
            let (at, n) = (offset as usize / 4, n_bytes as usize / 4);
            match at.checked_sub(before.len() + out_len(launch.out)) {
                Some(at) => &after[at..at + n],
                None => &before[at..at + n],
            }
        }
        _ => whole.read(binding),
    };
    let n_rows = match launch.rows {
        Rows::Tokens => step.n_tokens(),
        Rows::Wanted => step.n_rows(),
    };
    let mut ops = [CpuOp::Silu; MAX_TAIL];
    for (op, tail) in ops.iter_mut().zip(&launch.tail) {
        let stride = launch.stride;
        *op = match *tail {
            Tail::Bias(b) => CpuOp::Bias(read(b)),
            Tail::Add(b) => CpuOp::Add { operand: read(b), stride },
            Tail::Mul(b) => CpuOp::Mul { operand: read(b), stride },
            Tail::AddOut => CpuOp::AddOut,
            Tail::Silu => CpuOp::Silu,
            Tail::Gelu => CpuOp::Gelu,
            Tail::SiluMulPairs => CpuOp::SiluMulPair,
            Tail::GeluMulPairs => CpuOp::GeluMulPair,
            Tail::Scale(factor) => CpuOp::Scale(factor),
            Tail::Softcap(cap) => CpuOp::Softcap(cap),
        };
    }
    let epilogue = &ops[..launch.tail.len()];
    match &launch.work {
        Work::Embed { weight, row_first, scale } => {
            embed(pool, &step, &whole.sampled, &whole.matrix(*weight), *row_first, *scale, out)
        }
        Work::RmsNorm { x, columns, n_runs, weight, eps } => {
            let x = Columns { values: read(*x), stride: columns.0, at: columns.1 };
            rms_norm(pool, x, (n_rows, *n_runs), read(*weight), *eps, epilogue, out);
        }
        Work::Linear { x, weight, norm, stride, at } => {
            let norm = norm.map(|(weight, eps)| NormPrologue { weight: read(weight), eps });
            let (x, weight) = (read(*x), whole.matrix(*weight));
            let rows = StepRows::All(n_rows);
            let (out_stride, out_at) = (*stride, *at);
            linear(pool, scratch, Linear { weight, x, rows, norm, epilogue, out, out_stride, out_at, activations });
        }
        Work::ExpertLinear { x, route, weight, norm, numbers } => {
            let norm = norm.map(|(weight, eps)| NormPrologue { weight: read(weight), eps });
            let (x, route, weight) = (read(*x), read(*route), whole.matrix(*weight));
            let &ExpertNumbers { n_experts, first_expert, top_k, each } = numbers;
            let args =
                ExpertLinear { weight, n_experts, first_expert, route, top_k, x, each, n_rows, norm, epilogue, out };
            expert_linear(pool, scratch, args);
        }
        Work::MoeRoute { x, n_experts, top_k, renormalize } => {
            moe_route(read(*x), n_rows, *n_experts, *top_k, *renormalize, out)
        }
        Work::MoeSum { x, route, top_k } => {
            let (x, route, n_cols) = (read(*x), read(*route), launch.stride);
            moe_sum(pool, scratch, MoeSum { x, route, top_k: *top_k, n_rows, n_cols, epilogue, out });
        }
        Work::RopeKv { q, k, v, freqs, norms, numbers, .. } => {
            let columns =
                |binding: Binding, (stride, at): (usize, usize)| Columns { values: read(binding), stride, at };
            let args = RopeKv {
                step,
                n_heads: numbers.n_heads,
                layout: numbers.layout,
                rot_dim: numbers.rot_dim,
                neighbours: numbers.neighbours,
                inv_freq: read(*freqs),
                rope_scale: numbers.scale,
                norms: norms.map(|(weights, eps)| HeadNorms { weights: read(weights), eps }),
                kv_group: numbers.kv_group,
                q: columns(*q, numbers.columns[0]),
                k: columns(*k, numbers.columns[1]),
                v: columns(*v, numbers.columns[2]),
                q_out: out,
                kv: &mut pages,
            };
            rope_kv(pool, scratch, args);
        }
        Work::Attention { q, kv, page_table, numbers } => {
            let args = Attention {
                step,
                n_heads: numbers.n_heads,
                layout: numbers.layout,
                scale: numbers.scale,
                q_tile: numbers.q_tile,
                window: numbers.window,
                keep: numbers.keep,
                softcap: numbers.softcap,
                q: read(*q),
                kv: &whole.kv[*kv],
                page_table: &whole.page_tables[*page_table],
                max_pages: numbers.max_pages,
                out,
            };
            attention(pool, scratch, args);
        }
        Work::Gather { x, n_cols } => gather_rows(read(*x), step.rows(), *n_cols, out),
        Work::Map { x, n_cols } => map(pool, scratch, Some(read(*x)), n_rows, *n_cols, epilogue, out),
        Work::ArgmaxPartial { x, n, block } => argmax_partial(pool, read(*x), n_rows, *n, *block, out),
        Work::ArgmaxFinal { parts, n_blocks } => {
            argmax_final(read(*parts), n_rows, *n_blocks, &mut sampled);
        }
    }
    match launch.work {
        Work::RopeKv { kv, .. } => memory.kv[kv] = pages,
        Work::ArgmaxFinal { .. } => memory.sampled = sampled,
        _ => {}
    }
    memory.put(launch.out, buffer);
}
