//! Device memory: one place that decides where bytes live, counts them and refuses what does not fit.
//!
//! Every buffer of the engine comes from a [`Memory`]. It reserves against the budget first and asks the driver
//! second, so a context that is too long is an error with numbers and not a lost device. A [`GpuBuffer`] gives its
//! bytes back when it is dropped. Filling a buffer with weights is [`upload`](super::upload)'s concern.

use super::upload::Ring;
use super::{DeviceKind, Gpu, GpuError};
use crate::account::{self, Reservation};
use crate::budget::ram_budget;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wgpu::BufferUsages;

/// Usage of arenas, KV pools, step blocks and tables: kernels read and write them, and both copy directions work.
pub const STORAGE: BufferUsages = BufferUsages::STORAGE.union(BufferUsages::COPY_DST).union(BufferUsages::COPY_SRC);

/// Copies and mapped ranges are multiples of this.
pub(super) const COPY_ALIGNMENT: u64 = wgpu::COPY_BUFFER_ALIGNMENT;
/// Share of the largest device heap that is ours by default: the rest is for the driver and the desktop.
const HEAP_PERCENT: u64 = 90;

/// How a [`Memory`] is limited.
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// Bytes that all buffers together may take. Default: 90 % of the device's largest heap where the driver tells
    /// it, on unified memory at most 75 % of RAM (a software rasterizer: 75 % of RAM, its heap is a made-up figure);
    /// no limit where nothing is known.
    pub budget_bytes: Option<u64>,
    /// Largest piece that [`Memory::upload`] fills at once, and the size of each of its three staging buffers.
    pub piece_bytes: u64,
    /// Where the bytes are counted besides, under a limit of its own.
    pub shared: account::Account,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        MemoryOptions { budget_bytes: None, piece_bytes: 64 << 20, shared: account::Account::default() }
    }
}

/// What is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes of live buffers.
    pub active_bytes: u64,
    /// The most that was ever live at once.
    pub peak_bytes: u64,
    /// The budget; `None` where there is no limit.
    pub budget_bytes: Option<u64>,
}

#[derive(Debug)]
struct Account {
    active: AtomicU64,
    peak: AtomicU64,
    budget: Option<u64>,
    shared: account::Account,
}

impl Account {
    fn reserve(&self, what: &str, bytes: u64) -> Result<Reservation, GpuError> {
        let shared = self.shared.reserve(bytes).ok_or_else(|| GpuError::OverBudget {
            what: what.to_owned(),
            wanted_bytes: bytes,
            active_bytes: self.shared.active(),
            budget_bytes: self.shared.limit().unwrap_or(u64::MAX),
        })?;
        let limit = self.budget.unwrap_or(u64::MAX);
        let grow = |active: u64| active.checked_add(bytes).filter(|&sum| sum <= limit);
        match self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, grow) {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::AcqRel);
                Ok(shared)
            }
            Err(active_bytes) => Err(GpuError::OverBudget {
                what: what.to_owned(),
                wanted_bytes: bytes,
                active_bytes,
                budget_bytes: limit,
            }),
        }
    }
}

/// A buffer that is accounted for until it is dropped.
#[derive(Debug)]
pub struct GpuBuffer {
    raw: wgpu::Buffer,
    size_bytes: u64,
    account: Arc<Account>,
    _shared: Reservation,
}

impl GpuBuffer {
    /// wgpu's buffer.
    pub fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    /// Its size: what was asked for, rounded up to a multiple of 4.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// A range of the buffer as the resource of a bind group. The offset must be a multiple of the adapter's
    /// `binding_alignment_bytes`.
    ///
    /// # Panics
    /// If the range is empty or passes the buffer's end: a verified plan has no such binding.
    pub fn binding(&self, offset_bytes: u64, size_bytes: u64) -> wgpu::BindingResource<'_> {
        let end = offset_bytes.checked_add(size_bytes);
        assert!(
            size_bytes > 0 && end.is_some_and(|end| end <= self.size_bytes),
            "binding of {size_bytes} bytes at {offset_bytes} in a buffer of {}",
            self.size_bytes
        );
        let size = wgpu::BufferSize::new(size_bytes);
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &self.raw, offset: offset_bytes, size })
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        self.account.active.fetch_sub(self.size_bytes, Ordering::AcqRel);
    }
}

/// The memory of one device.
#[derive(Debug)]
pub struct Memory {
    pub(super) gpu: Gpu,
    account: Arc<Account>,
    pub(super) piece_bytes: u64,
    pub(super) ring: Ring,
}

impl Memory {
    /// The memory of a device, empty.
    pub fn new(gpu: &Gpu, options: &MemoryOptions) -> Memory {
        let budget = options.budget_bytes.or_else(|| default_budget(gpu));
        let account = Arc::new(Account {
            active: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            budget,
            shared: options.shared.clone(),
        });
        let piece_bytes = round_up(options.piece_bytes.max(COPY_ALIGNMENT), COPY_ALIGNMENT);
        Memory { gpu: gpu.clone(), account, piece_bytes, ring: Ring::default() }
    }

    /// What is in use now and was at most. Staging buffers are the processor's memory and don't count.
    pub fn in_use(&self) -> MemoryUse {
        MemoryUse {
            active_bytes: self.account.active.load(Ordering::Acquire),
            peak_bytes: self.account.peak.load(Ordering::Acquire),
            budget_bytes: self.account.budget,
        }
    }

    /// Where the bytes are counted besides.
    pub fn shared(&self) -> &account::Account {
        &self.account.shared
    }

    /// Whether buffers of `bytes` in sum could be made now, before any of them is: for refusing a model or a context
    /// as a whole.
    ///
    /// # Errors
    /// [`GpuError::OverBudget`].
    pub fn check_fits(&self, what: &str, bytes: u64) -> Result<(), GpuError> {
        let active_bytes = self.account.active.load(Ordering::Acquire);
        match self.account.budget {
            Some(budget_bytes) if bytes > budget_bytes.saturating_sub(active_bytes) => {
                Err(GpuError::OverBudget { what: what.to_owned(), wanted_bytes: bytes, active_bytes, budget_bytes })
            }
            _ => Ok(()),
        }
    }

    /// Makes a buffer. Its contents are undefined for the plan: nothing may rely on zeros.
    ///
    /// # Errors
    /// [`GpuError::OverBudget`], [`GpuError::TooLarge`], [`GpuError::OutOfMemory`], [`GpuError::Buffer`].
    pub fn allocate(&self, what: &str, size_bytes: u64, usage: BufferUsages) -> Result<GpuBuffer, GpuError> {
        self.make(what, size_bytes, usage, false)
    }

    pub(super) fn make(
        &self,
        what: &str,
        size_bytes: u64,
        usage: BufferUsages,
        mapped: bool,
    ) -> Result<GpuBuffer, GpuError> {
        let limit_bytes = self.gpu.info().max_buffer_bytes;
        if size_bytes > limit_bytes {
            return Err(GpuError::TooLarge { what: what.to_owned(), wanted_bytes: size_bytes, limit_bytes });
        }
        let size = round_up(size_bytes.max(COPY_ALIGNMENT), COPY_ALIGNMENT);
        let shared = self.account.reserve(what, size)?;
        match raw_buffer(&self.gpu, what, size, usage, mapped) {
            Ok(raw) => Ok(GpuBuffer { raw, size_bytes: size, account: self.account.clone(), _shared: shared }),
            Err(error) => {
                self.account.active.fetch_sub(size, Ordering::AcqRel);
                Err(error)
            }
        }
    }
}

/// A driver's buffer, with its failure as an error of this call.
pub(super) fn raw_buffer(
    gpu: &Gpu,
    what: &str,
    size: u64,
    usage: BufferUsages,
    mapped_at_creation: bool,
) -> Result<wgpu::Buffer, GpuError> {
    let memory = gpu.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = gpu.device().push_error_scope(wgpu::ErrorFilter::Validation);
    let descriptor = wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation };
    let raw = gpu.device().create_buffer(&descriptor);
    let (validation, memory) = (pollster::block_on(validation.pop()), pollster::block_on(memory.pop()));
    gpu.check()?;
    match (memory, validation) {
        (None, None) => Ok(raw),
        (Some(_), _) => Err(GpuError::OutOfMemory { what: what.to_owned(), wanted_bytes: size }),
        (None, Some(error)) => Err(GpuError::Buffer { what: what.to_owned(), reason: error.to_string() }),
    }
}

pub(super) fn round_up(value: u64, alignment: u64) -> u64 {
    value.div_ceil(alignment) * alignment
}

fn default_budget(gpu: &Gpu) -> Option<u64> {
    let heap = || gpu.heap_bytes().map(|bytes| bytes / 100 * HEAP_PERCENT);
    match (gpu.info().kind, gpu.is_unified()) {
        (DeviceKind::Cpu, _) => ram_budget(),
        (_, false) => heap(),
        (_, true) => [heap(), ram_budget()].into_iter().flatten().min(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing;

    #[test]
    fn the_budget_refuses_before_it_allocates() {
        let Some(gpu) = testing::gpu() else { return };
        let memory = Memory::new(&gpu, &MemoryOptions { budget_bytes: Some(10_000), ..Default::default() });
        let first = memory.allocate("kv", 8000, STORAGE).unwrap();
        let error = memory.allocate("arena", 4000, STORAGE).map(drop).unwrap_err();
        assert!(matches!(error, GpuError::OverBudget { wanted_bytes: 4000, active_bytes: 8000, .. }), "{error}");
        assert!(memory.check_fits("context", 2001).is_err());
        memory.check_fits("context", 2000).unwrap();
        drop(first);
        drop(memory.allocate("arena", 4000, STORAGE).unwrap());
        let expected = MemoryUse { active_bytes: 0, peak_bytes: 8000, budget_bytes: Some(10_000) };
        assert_eq!(memory.in_use(), expected);
    }

    #[test]
    fn absurd_sizes_are_errors() {
        let Some(gpu) = testing::gpu() else { return };
        let memory = Memory::new(&gpu, &MemoryOptions { budget_bytes: Some(u64::MAX), ..Default::default() });
        let error = memory.allocate("kv", u64::MAX, STORAGE).map(drop).unwrap_err();
        assert!(matches!(error, GpuError::TooLarge { .. }), "{error}");
        assert_eq!(memory.in_use().active_bytes, 0);
        gpu.check().unwrap();
    }

    #[test]
    fn by_default_there_is_a_budget_below_the_machine() {
        let Some(gpu) = testing::gpu() else { return };
        let budget = Memory::new(&gpu, &MemoryOptions::default()).in_use().budget_bytes;
        assert!(budget.is_some_and(|bytes| bytes > 64 << 20), "{budget:?}");
    }
}
