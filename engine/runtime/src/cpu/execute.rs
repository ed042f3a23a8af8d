//! Executes a plan's steps on the processor: the plan that a GPU would run, with native kernels.
//!
//! Matrices stay where the checkpoint is mapped; what a dispatch needs is looked up at load, so that a step looks up
//! nothing by name.
#![allow(unsafe_code)]

mod prepare;
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
use super::weight::{Segment, Weight};
use super::{EpilogueOp as CpuOp, Scratch, embed::embed, gather::gather_rows, map::map, norm::rms_norm};
use crate::account::{Account, Reservation};
use crate::backend::{MemoryUse, StepInput, StepOutput};
use crate::budget;
use crate::error::RuntimeError;
use crate::world::Limits;
use ingot_ir::kernel::Rows;
use ingot_ir::kv::{KvGroupId, KvLayerId};
use ingot_ir::plan::{Binding, Plan};
use prepare::{MAX_TAIL, hold, out_len, prepare};
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
