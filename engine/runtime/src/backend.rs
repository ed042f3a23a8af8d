//! What executes a plan's steps: the processor or a GPU. Both take the same step tables and give back the same things.

use crate::RuntimeError;
use crate::account::Account;
use crate::ceilings::Ceilings;
use crate::cpu::execute::CpuBackend;
use crate::gpu::execute::GpuBackend;
use ingot_ir::kv::{KvGroupId, KvLayerId};
use ingot_ir::plan::VariantId;
use ingot_ir::size::Dims;
use ingot_ir::step::SAMPLED_WORDS;

/// One step to run.
pub struct StepInput<'a> {
    /// The variant that the step fits.
    pub variant: VariantId,
    /// Its sizes.
    pub dims: Dims,
    /// The step block.
    pub words: &'a [u32],
    /// Whether the logits are to be read back, besides the sampled ids.
    pub want_logits: bool,
    /// Whether the step ends with the logits for now: [`Backend::choose`] has the tokens chosen.
    pub chooses_later: bool,
}

/// What a finished step left.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// The choice of each wanted row: that of the step's table of choices on a GPU, else the greatest logit.
    pub sampled: Vec<u32>,
    /// What a GPU tells of each wanted row's choice, [`SAMPLED_WORDS`] a row.
    pub told: Vec<u32>,
    /// `[row][vocabulary]`, if wanted, else empty.
    pub logits: Vec<f32>,
    /// Time that the device took, where it can tell.
    pub device_ns: Option<u64>,
}

impl StepOutput {
    /// The log-probability of a row's choice, and the best `n` ids and theirs in falling order, from the row's own part of
    /// what was told.
    pub fn logprobs(&self, row: usize, n: usize) -> (f32, Vec<(u32, f32)>) {
        let words = self.told.chunks_exact(SAMPLED_WORDS as usize).nth(row).unwrap_or(&[]);
        let logprob = |word: u32| match f32::from_bits(word) {
            number if number < NEVER => f32::NEG_INFINITY,
            number => number,
        };
        let best = words.iter().skip(2).zip(words.iter().skip(3)).step_by(2).take(n);
        (words.get(1).map_or(0.0, |word| logprob(*word)), best.map(|(id, word)| (*id, logprob(*word))).collect())
    }
}

/// Log-probabilities below it are those of tokens that may not come: kernels calculate with finite numbers.
const NEVER: f32 = -1e37;

/// When a dispatch of a profiled step ran, in nanoseconds after the first began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelTime {
    /// It began.
    pub start_ns: u64,
    /// It was done.
    pub end_ns: u64,
}

/// Steps that may be in flight.
pub const MAX_IN_FLIGHT: usize = 2;

/// A loaded plan on a device.
pub enum Backend {
    /// The processor. Boxed: a world holds one of either.
    Cpu(Box<CpuBackend>),
    /// A GPU through wgpu.
    Gpu(Box<GpuBackend>),
}

impl Backend {
    /// Starts a step. At most [`MAX_IN_FLIGHT`] may be unfinished.
    pub fn submit(&mut self, step: &StepInput<'_>) -> Result<(), RuntimeError> {
        match self {
            Self::Cpu(cpu) => cpu.submit(step),
            Self::Gpu(gpu) => gpu.submit(step),
        }
    }
    /// Has the tokens of the newest step chosen, which was started without. Until then no other may be started, and it does
    /// not finish. The processor chooses none.
    pub fn choose(&mut self) -> Result<(), RuntimeError> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.choose(),
        }
    }
    /// The oldest step's result into `out`, if it is finished. Never blocks.
    pub fn poll(&mut self, out: &mut StepOutput) -> Result<bool, RuntimeError> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.poll(out)),
            Self::Gpu(gpu) => gpu.poll(out),
        }
    }
    /// Waits until [`Backend::poll`] has something. For the outer loop alone.
    pub fn wait(&mut self) -> Result<(), RuntimeError> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.wait(),
        }
    }
    /// Writes entries of a page table's row, from entry `first`.
    pub fn write_pages(&mut self, group: KvGroupId, row: u32, first: u32, pages: &[u32]) {
        match self {
            Self::Cpu(cpu) => cpu.write_pages(group, row, first, pages),
            Self::Gpu(gpu) => gpu.write_pages(group, row, first, pages),
        }
    }
    /// The words of pages of a layer, one page after the other. Blocks; nothing may be in flight.
    pub fn read_pages(&mut self, layer: KvLayerId, pages: &[u32]) -> Result<Vec<u32>, RuntimeError> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.read_pages(layer, pages)),
            Self::Gpu(gpu) => gpu.read_pages(layer, pages),
        }
    }
    /// Writes the words of a page of a layer.
    pub fn write_page(&mut self, layer: KvLayerId, page: u32, words: &[u32]) {
        match self {
            Self::Cpu(cpu) => cpu.write_page(layer, page, words),
            Self::Gpu(gpu) => gpu.write_page(layer, page, words),
        }
    }
    /// Writes words of a sequence's columns, from word `first`: see [`ingot_ir::step::LIST_WORDS`]. The processor has none.
    pub fn write_columns(&mut self, row: u32, first: u32, words: &[u32]) {
        match self {
            Self::Cpu(_) => {}
            Self::Gpu(gpu) => gpu.write_columns(row, first, words),
        }
    }
    /// Measures what the device can do at most, beside the loaded plan. Blocks; nothing may be in flight.
    pub fn ceilings(&self) -> Result<Ceilings, RuntimeError> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.ceilings()),
            Self::Gpu(gpu) => gpu.ceilings(),
        }
    }
    /// Runs a step and tells when each of the variant's dispatches ran, in their order: by the device's clock, or on the
    /// processor by ours. Blocks; nothing may be in flight.
    pub fn profile(&mut self, step: &StepInput<'_>) -> Result<Vec<KernelTime>, RuntimeError> {
        match self {
            Self::Cpu(cpu) => cpu.profile(step),
            Self::Gpu(gpu) => gpu.profile(step),
        }
    }
    /// Whether it chooses tokens by the step's table of choices, and a step may take ids that the step before chose, before
    /// they were read back.
    pub fn feeds_back(&self) -> bool {
        matches!(self, Self::Gpu(_))
    }
    /// Fills transient buffers and logits with NaN, and the pages of keys and values unless `keep_kv`. For tests: a
    /// kernel that reads what no kernel has written shows it in its result.
    pub fn poison(&mut self, keep_kv: bool) {
        match self {
            Self::Cpu(cpu) => cpu.poison(keep_kv),
            Self::Gpu(gpu) => gpu.poison(keep_kv),
        }
    }
    /// Where its memory is counted besides.
    pub fn account(&self) -> &Account {
        match self {
            Self::Cpu(cpu) => cpu.account(),
            Self::Gpu(gpu) => gpu.account(),
        }
    }
    /// Bytes in use and their peak.
    pub fn memory(&self) -> MemoryUse {
        match self {
            Self::Cpu(cpu) => cpu.memory(),
            Self::Gpu(gpu) => gpu.memory(),
        }
    }
}

/// Memory of a loaded plan, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryUse {
    /// In use now.
    pub active: u64,
    /// The most that was in use.
    pub peak: u64,
}
