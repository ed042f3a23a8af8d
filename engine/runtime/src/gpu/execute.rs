//! Executes a plan's steps on the GPU: one submission a step, or two where tokens are chosen later; nothing created after load.
//!
//! Everything that a dispatch binds is known at load, so bind groups are made then and a step only sets and dispatches.
//! The step block is one buffer: `write_buffer` is ordered with submissions, and a ring of three was measured to be no
//! faster.

mod profile;

use super::device::Gpu;
use super::error::GpuError;
use super::memory::{GpuBuffer, Memory, MemoryOptions, STORAGE};
use super::pipelines::{self, BindingSpec, PipelineCache, PipelineSet, PipelineSpec};
use super::readback::ReadBack;
use super::timing::Timer;
use super::upload::FillError;
use crate::account::Account;
use crate::backend::{MAX_IN_FLIGHT, MemoryUse, StepInput, StepOutput};
use crate::budget;
use crate::error::RuntimeError;
use crate::world::Limits;
use ingot_ir::kernel::Access;
use ingot_ir::kv::{KvGroupId, KvLayerId};
use ingot_ir::memory::Bytes;
use ingot_ir::plan::{Binding, BlobId, Bound, PipelineId, Plan, PlanWeight, Segment, VariantId};
use ingot_ir::size::{Dims, ExprId, ExprPool};
use ingot_ir::step::{SAMPLED_WORDS, max_block_words};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// Bytes that a row's choice leaves.
const SAMPLED_BYTES: u64 = SAMPLED_WORDS as u64 * 4;

/// Workgroups a dimension; more are folded into the second.
const MAX_GROUPS: u32 = 65_535;

/// Fills bytes `offset ..` of a weight in its layout.
pub type FillWeight<'a> = dyn FnMut(BlobId, &PlanWeight, u64, &mut [u8]) -> Result<(), FillError> + 'a;

/// How a plan is loaded onto a GPU.
pub struct LoadOptions<'a> {
    /// Sequences and pages.
    pub limits: Limits,
    /// Placement and budget.
    pub memory: MemoryOptions,
    /// Whether kernel sources are our own, so that they need no bounds checks.
    pub trusted: bool,
    /// Threads that create pipelines.
    pub n_threads: usize,
    /// What an earlier load on this adapter and driver left for faster creation of pipelines (empty: nothing);
    /// replaced by what this load leaves. `None`, and where the backend has no such cache: all are made anew.
    pub pipeline_cache: Option<&'a mut Vec<u8>>,
    /// Whether weights that are alike hold the same numbers (a model made up for a measurement): one is filled, the
    /// others are copies that the device makes.
    pub alike: bool,
    /// Told the weight bytes loaded so far, and all.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// A dispatch with everything bound.
struct Launch {
    pipeline: usize,
    groups: [Option<wgpu::BindGroup>; 4],
    grid: ExprId,
}

/// A step in flight.
struct Pending {
    n_rows: u32,
    with_logits: bool,
}

/// A step of which only the logits have been submitted.
struct Unchosen {
    variant: VariantId,
    dims: Dims,
    want_logits: bool,
}

/// Spans of time that a step has at most: one a submission.
const MAX_SPANS: u32 = 2;

/// A plan on a GPU.
pub struct GpuBackend {
    gpu: Gpu,
    memory: Memory,
    exprs: ExprPool,
    pipelines: PipelineSet,
    launches: Vec<Launch>,
    /// Launches by variant: those that compute the logits, then those that choose tokens.
    spans: Vec<[Range<usize>; 2]>,
    buffers: Buffers,
    readback: ReadBack,
    timer: Option<Timer>,
    pending: VecDeque<Pending>,
    /// The newest step, if its tokens are yet to be chosen.
    unchosen: Option<Unchosen>,
    bytes: Vec<u8>,
    spans_ns: Vec<u64>,
    n_vocab: u32,
    max_pages: u32,
    /// Bytes of a page, by layer.
    page_bytes: Vec<u64>,
    column_words: u32,
}

struct Buffers {
    step: GpuBuffer,
    sampled: GpuBuffer,
    columns: GpuBuffer,
    logits: GpuBuffer,
    arenas: Vec<GpuBuffer>,
    weights: Vec<GpuBuffer>,
    kv: Vec<GpuBuffer>,
    page_tables: Vec<GpuBuffer>,
}

impl Buffers {
    fn of(&self, binding: Binding) -> &GpuBuffer {
        match binding {
            Binding::Step => &self.step,
            Binding::Sampled => &self.sampled,
            Binding::Columns => &self.columns,
            Binding::Logits => &self.logits,
            Binding::Arena { arena, .. } => &self.arenas[arena.0 as usize],
            Binding::Weight(blob) => &self.weights[blob.0 as usize],
            Binding::Kv(layer) => &self.kv[layer.0 as usize],
            Binding::PageTable(group) => &self.page_tables[group.0 as usize],
        }
    }
    fn resource(&self, binding: Binding) -> wgpu::BindingResource<'_> {
        let buffer = self.of(binding);
        match binding {
            Binding::Arena { offset, n_bytes, .. } => buffer.binding(offset, n_bytes),
            _ => buffer.binding(0, buffer.size_bytes()),
        }
    }
}

impl GpuBackend {
    /// Loads a plan: checks the budget, uploads weights, allocates everything, creates pipelines.
    pub fn load(
        gpu: Gpu,
        plan: &Plan,
        fill: &mut FillWeight<'_>,
        options: LoadOptions<'_>,
    ) -> Result<Self, RuntimeError> {
        plan.verify()?;
        let info = gpu.info();
        if plan.is_cpu || plan.max_binding_bytes > info.max_binding_bytes {
            return Err(RuntimeError::WrongTarget { target: plan.target.clone(), device: info.name.clone() });
        }
        let max_sequences = options.limits.max_sequences;
        let layer_bytes =
            |group: KvGroupId| plan.page_bytes(group) * u64::from(options.limits.n_pages[group.0 as usize]);
        let mut memory = Memory::new(&gpu, &options.memory);
        budget::check(plan, &options.limits, memory.in_use().budget_bytes, memory.shared())?;
        for group in plan.kv.groups.ids() {
            let needed = layer_bytes(group);
            if needed > info.max_binding_bytes {
                let (needed, limit) = (Bytes(needed), Bytes(info.max_binding_bytes));
                return Err(RuntimeError::PoolTooLarge { needed, context: plan.max_context, limit });
            }
        }

        let total = plan.weight_bytes();
        let (mut weights, mut done) = (Vec::with_capacity(plan.weights.len()), 0);
        for (id, weight) in plan.weights.iter() {
            let size = weight.n_bytes().next_multiple_of(16);
            let earlier = plan.weights.as_slice()[..weights.len()].iter().position(|other| is_alike(weight, other));
            if let Some(earlier) = earlier.filter(|_| options.alike) {
                weights.push(memory.copy(&id.to_string(), &weights[earlier])?);
                done += weight.n_bytes();
                (options.progress)(done, total);
                continue;
            }
            let n_bytes = weight.n_bytes();
            let mut piece = |offset: u64, out: &mut [u8]| {
                // The padding to whole words belongs to the buffer, not to the weight.
                let inside = n_bytes.saturating_sub(offset).min(out.len() as u64) as usize;
                let (weight_bytes, padding) = out.split_at_mut(inside);
                padding.fill(0);
                fill(id, weight, offset, weight_bytes)
            };
            weights.push(memory.upload(&id.to_string(), size, &mut piece)?);
            done += n_bytes;
            (options.progress)(done, total);
        }
        memory.finish_uploads()?;

        let storage = |what: &str, n_bytes: u64| memory.allocate(what, n_bytes.max(16).next_multiple_of(16), STORAGE);
        let bounds = plan.max_bounds();
        let block_bytes = max_block_words(&bounds, plan.kv.groups.len()) as u64 * 4;
        let column_bytes = u64::from(max_sequences) * u64::from(plan.column_words()) * 4;
        if column_bytes > info.max_binding_bytes {
            let (needed, limit) = (Bytes(column_bytes), Bytes(info.max_binding_bytes));
            return Err(RuntimeError::TooManySequences { needed, n_sequences: max_sequences, limit });
        }
        let layers = plan.kv.layers.iter();
        let buffers = Buffers {
            step: storage("step tables", block_bytes)?,
            sampled: storage("sampled ids", u64::from(bounds.rows) * SAMPLED_BYTES)?,
            columns: storage("columns of sequences", column_bytes)?,
            logits: storage("logits", plan.logits_bytes())?,
            arenas: plan.arenas.iter().map(|(id, n)| storage(&id.to_string(), *n)).collect::<Result<_, _>>()?,
            weights,
            kv: layers
                .map(|(id, l)| storage(&format!("KV pages of {id}"), layer_bytes(l.group)))
                .collect::<Result<_, _>>()?,
            page_tables: (plan.kv.groups.ids())
                .map(|id| {
                    storage(&format!("page table of {id}"), u64::from(max_sequences) * u64::from(plan.max_pages()) * 4)
                })
                .collect::<Result<_, _>>()?,
        };

        let pipelines = create_pipelines(&gpu, plan, options.trusted, options.n_threads, options.pipeline_cache)?;
        let launches = bind(&gpu, plan, &pipelines, &buffers)?;
        let timer = Timer::new(&gpu, &memory, MAX_SPANS)?;
        let slot_bytes = u64::from(bounds.rows) * SAMPLED_BYTES + plan.logits_bytes() + 256;
        let readback = ReadBack::new(&memory, slot_bytes, MAX_IN_FLIGHT + 1)?;
        gpu.check()?;
        let spans = plan.variants.iter().map(|(id, variant)| {
            let (first, end) = (variant.first as usize, (variant.first + variant.n_dispatches) as usize);
            let choosing = plan.first_choosing(id);
            [first..choosing, choosing..end]
        });
        let spans = spans.collect();
        Ok(Self {
            exprs: plan.exprs.clone(),
            n_vocab: plan.n_vocab,
            max_pages: plan.max_pages(),
            page_bytes: plan.kv.layers.as_slice().iter().map(|layer| plan.page_bytes(layer.group)).collect(),
            column_words: plan.column_words(),
            pending: VecDeque::with_capacity(MAX_IN_FLIGHT),
            unchosen: None,
            bytes: Vec::new(),
            spans_ns: Vec::new(),
            gpu,
            memory,
            pipelines,
            launches,
            spans,
            buffers,
            readback,
            timer,
        })
    }

    /// Where its memory is counted besides.
    pub fn account(&self) -> &Account {
        self.memory.shared()
    }

    /// The words of pages of a layer, one page after the other. Blocks.
    pub fn read_pages(&mut self, layer: KvLayerId, pages: &[u32]) -> Result<Vec<u32>, RuntimeError> {
        if pages.is_empty() {
            return Ok(Vec::new());
        }
        let n = self.page_bytes[layer.0 as usize];
        let kv = self.buffers.kv[layer.0 as usize].raw();
        let parts: Vec<_> = pages.iter().map(|page| (kv, u64::from(*page) * n, n)).collect();
        let mut readback = ReadBack::new(&self.memory, n * pages.len() as u64, 1)?;
        let encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        readback.submit(&self.gpu, encoder, 0, &parts)?;
        let mut bytes = Vec::new();
        readback.wait(&self.gpu, &mut bytes, STEP_TIMEOUT)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Writes the words of a page of a layer.
    pub fn write_page(&mut self, layer: KvLayerId, page: u32, words: &[u32]) {
        let at = u64::from(page) * self.page_bytes[layer.0 as usize];
        self.gpu.queue().write_buffer(self.buffers.kv[layer.0 as usize].raw(), at, bytemuck::cast_slice(words));
    }

    /// Encodes and submits a step, or as much of it as computes the logits.
    pub fn submit(&mut self, step: &StepInput<'_>) -> Result<(), RuntimeError> {
        self.gpu.queue().write_buffer(self.buffers.step.raw(), 0, bytemuck::cast_slice(step.words));
        let [computes, chooses] = self.spans[step.variant.0 as usize].clone();
        let StepInput { variant, dims, want_logits, .. } = *step;
        if step.chooses_later {
            let encoder = self.encode(computes, &dims, 0);
            self.gpu.queue().submit([encoder.finish()]);
            self.unchosen = Some(Unchosen { variant, dims, want_logits });
            return Ok(self.gpu.check()?);
        }
        let encoder = self.encode(computes.start..chooses.end, &dims, 0);
        self.submit_with_results(encoder, &dims, want_logits, 1)
    }

    /// Encodes and submits what chooses the tokens of a step that was submitted without.
    pub fn choose(&mut self) -> Result<(), RuntimeError> {
        let Some(Unchosen { variant, dims, want_logits }) = self.unchosen.take() else { return Ok(()) };
        let [_, chooses] = self.spans[variant.0 as usize].clone();
        let encoder = self.encode(chooses, &dims, 1);
        self.submit_with_results(encoder, &dims, want_logits, MAX_SPANS)
    }

    /// Launches in a pass, which is the given span of the step's time.
    fn encode(&self, launches: Range<usize>, dims: &Dims, span: u32) -> wgpu::CommandEncoder {
        let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        let timestamp_writes = self.timer.as_ref().map(|timer| timer.pass_span(span));
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        encode(&mut pass, &self.launches[launches], &self.pipelines, &self.exprs, dims);
        drop(pass);
        encoder
    }

    /// Submits a step's last commands, and after them the read-back of what it leaves.
    fn submit_with_results(
        &mut self,
        mut encoder: wgpu::CommandEncoder,
        dims: &Dims,
        want_logits: bool,
        n_spans: u32,
    ) -> Result<(), RuntimeError> {
        let n_rows = dims.rows;
        let ids_bytes = u64::from(n_rows) * SAMPLED_BYTES;
        let logits_bytes = u64::from(n_rows) * u64::from(self.n_vocab) * 4;
        let mut parts = [(self.buffers.sampled.raw(), 0, 0); 3];
        let mut n_parts = 0;
        let mut add = |part| {
            parts[n_parts] = part;
            n_parts += 1;
        };
        if n_rows > 0 {
            add((self.buffers.sampled.raw(), 0, ids_bytes));
        }
        if want_logits && n_rows > 0 {
            add((self.buffers.logits.raw(), 0, logits_bytes));
        }
        if let Some(timer) = &self.timer {
            timer.resolve(&mut encoder, n_spans);
            add(timer.readback_part(n_spans));
        }
        self.readback.submit(&self.gpu, encoder, 0, &parts[..n_parts])?;
        self.pending.push_back(Pending { n_rows, with_logits: want_logits });
        Ok(())
    }

    /// The oldest step's result, if it is finished.
    pub fn poll(&mut self, out: &mut StepOutput) -> Result<bool, RuntimeError> {
        self.gpu.check()?;
        if self.bytes.is_empty() && self.readback.poll(&self.gpu, &mut self.bytes)?.is_none() {
            return Ok(false);
        }
        let Some(pending) = self.pending.pop_front() else { return Ok(false) };
        let (told, rest) = self.bytes.split_at(pending.n_rows as usize * SAMPLED_BYTES as usize);
        out.told.clear();
        out.told.extend(told.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        out.sampled.clear();
        out.sampled.extend(out.told.chunks_exact(SAMPLED_WORDS as usize).map(|row| row[0]));
        let n_logits = if pending.with_logits { pending.n_rows as usize * self.n_vocab as usize } else { 0 };
        let (logits, rest) = rest.split_at(n_logits * 4);
        out.logits.clear();
        out.logits.extend(logits.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        out.device_ns = self.timer.as_ref().map(|timer| {
            timer.spans_ns(rest, &mut self.spans_ns);
            self.spans_ns.iter().sum()
        });
        self.bytes.clear();
        Ok(true)
    }

    /// Waits for the oldest step. Its bytes are kept for [`GpuBackend::poll`].
    pub fn wait(&mut self) -> Result<(), RuntimeError> {
        if self.bytes.is_empty() && self.readback.n_in_flight() > 0 {
            self.readback.wait(&self.gpu, &mut self.bytes, STEP_TIMEOUT)?;
        }
        Ok(())
    }

    /// Writes entries of a page table's row.
    pub fn write_pages(&mut self, group: KvGroupId, row: u32, first: u32, pages: &[u32]) {
        let at = (u64::from(row) * u64::from(self.max_pages) + u64::from(first)) * 4;
        let table = self.buffers.page_tables[group.0 as usize].raw();
        self.gpu.queue().write_buffer(table, at, bytemuck::cast_slice(pages));
    }

    /// Writes words of a sequence's columns, from word `first`.
    pub fn write_columns(&mut self, row: u32, first: u32, words: &[u32]) {
        let at = (u64::from(row) * u64::from(self.column_words) + u64::from(first)) * 4;
        self.gpu.queue().write_buffer(self.buffers.columns.raw(), at, bytemuck::cast_slice(words));
    }

    /// Fills transient buffers and logits with NaN, and the pages of keys and values unless `keep_kv`. For tests: a
    /// kernel that reads what no kernel has written shows it in its result. It happens between the steps submitted
    /// before and after.
    pub fn poison(&mut self, keep_kv: bool) {
        let fill = |buffer: &GpuBuffer, word: u32| {
            let words = vec![word; POISON_WORDS];
            let n_words = (buffer.size_bytes() / 4) as usize;
            for at in (0..n_words).step_by(POISON_WORDS) {
                let piece = &words[..POISON_WORDS.min(n_words - at)];
                self.gpu.queue().write_buffer(buffer.raw(), at as u64 * 4, bytemuck::cast_slice(piece));
            }
        };
        fill(&self.buffers.logits, f32::NAN.to_bits());
        self.buffers.arenas.iter().for_each(|arena| fill(arena, f32::NAN.to_bits()));
        if !keep_kv {
            // Not a number in single precision, and twice in half precision.
            self.buffers.kv.iter().for_each(|pages| fill(pages, 0x7fff_ffff));
        }
    }

    /// Device memory in use and its peak.
    pub fn memory(&self) -> MemoryUse {
        let used = self.memory.in_use();
        MemoryUse { active: used.active_bytes, peak: used.peak_bytes }
    }
}

/// Whether two weights of a made-up model hold the same numbers: those that the model's builder made never do.
fn is_alike(a: &PlanWeight, b: &PlanWeight) -> bool {
    let shape = |weight: &PlanWeight| (weight.format, weight.layout, weight.n_rows, weight.n_cols, weight.interleaved);
    let rows = |segment: &Segment| (segment.first_row, segment.n_rows, segment.order, segment.plus_one);
    shape(a) == shape(b)
        && a.segments.iter().map(rows).eq(b.segments.iter().map(rows))
        && a.inline.is_empty()
        && b.inline.is_empty()
}

/// Words that [`GpuBackend::poison`] writes at once.
const POISON_WORDS: usize = 1 << 18;

/// A step that takes longer is a hang: the slowest device of the tests needs some seconds for a chunk.
const STEP_TIMEOUT: Duration = Duration::from_secs(300);

fn create_pipelines(
    gpu: &Gpu,
    plan: &Plan,
    trusted: bool,
    n_threads: usize,
    cache: Option<&mut Vec<u8>>,
) -> Result<PipelineSet, GpuError> {
    let kernels = plan.kernels.iter();
    let bindings: Vec<Vec<BindingSpec>> = plan
        .kernels
        .as_slice()
        .iter()
        .map(|kernel| {
            let spec = |slot: &ingot_ir::plan::Slot| BindingSpec {
                group: slot.group,
                binding: slot.binding,
                read_only: slot.access == Access::Read,
            };
            kernel.slots.iter().map(spec).collect()
        })
        .collect();
    let labels: Vec<String> = kernels.map(|(id, kernel)| format!("{id} {}", kernel.spec.template)).collect();
    let specs: Vec<PipelineSpec<'_>> = plan
        .kernels
        .as_slice()
        .iter()
        .zip(labels.iter().zip(&bindings))
        .map(|(kernel, (label, bindings))| PipelineSpec { label, wgsl: &kernel.wgsl, entry: "main", trusted, bindings })
        .collect();
    let known = cache.as_ref().and_then(|data| PipelineCache::new(gpu, data));
    let made = pipelines::create(gpu, &specs, n_threads, known.as_ref())?;
    if let (Some(data), Some(known)) = (cache, known) {
        *data = known.data();
    }
    Ok(made)
}

/// Binds every dispatch's operands.
fn bind(gpu: &Gpu, plan: &Plan, pipelines: &PipelineSet, buffers: &Buffers) -> Result<Vec<Launch>, GpuError> {
    let launch = |dispatch: &ingot_ir::plan::Dispatch| {
        let PipelineId(ix) = dispatch.kernel;
        let pipeline = pipelines.get(ix as usize);
        let kernel = &plan.kernels[dispatch.kernel];
        let operands = plan.operands_of(dispatch);
        let mut groups = [const { None }; 4];
        for (group, place) in (0..pipeline.n_groups()).zip(groups.iter_mut()) {
            let slots = kernel.slots.iter().filter(|slot| slot.group == group);
            let resources: Vec<_> = slots
                .map(|slot| {
                    let bound: Option<&Bound> = operands.iter().find(|operand| operand.role == slot.role);
                    let bound = bound.unwrap_or_else(|| unreachable!("verified: every slot has an operand"));
                    (slot.binding, buffers.resource(bound.binding))
                })
                .collect();
            if !resources.is_empty() {
                *place = Some(pipeline.bind_group(gpu, group, &resources)?);
            }
        }
        Ok(Launch { pipeline: pipelines.unique_ix(ix as usize), groups, grid: dispatch.grid })
    };
    plan.dispatches.as_slice().iter().map(launch).collect()
}

/// Encodes launches for a step's sizes.
fn encode(
    pass: &mut wgpu::ComputePass<'_>,
    launches: &[Launch],
    pipelines: &PipelineSet,
    exprs: &ExprPool,
    dims: &Dims,
) {
    let mut current = usize::MAX;
    for launch in launches {
        let n = exprs.eval(launch.grid, dims);
        if n == 0 {
            continue;
        }
        if launch.pipeline != current {
            pass.set_pipeline(pipelines.unique(launch.pipeline).raw());
            current = launch.pipeline;
        }
        for (group, bound) in (0..).zip(&launch.groups) {
            if let Some(bound) = bound {
                pass.set_bind_group(group, bound, &[]);
            }
        }
        let (x, y) = if n <= MAX_GROUPS { (n, 1) } else { (MAX_GROUPS, n.div_ceil(MAX_GROUPS)) };
        pass.dispatch_workgroups(x, y, 1);
    }
}
