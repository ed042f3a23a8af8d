//! Adapters and the open device.
//!
//! A [`Gpu`] is an opened adapter with its queue. Whether its memory is unified is decided by the device's type, never
//! by the feature MAPPABLE_PRIMARY_BUFFERS: discrete cards report that as well, and mapped weights would then be read
//! over PCIe.

use super::GpuError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use wgpu::Features;

/// The features that the engine can use; each is requested when the adapter has it, and none is required.
const USED: Features = Features::SUBGROUP
    .union(Features::SHADER_F16)
    .union(Features::TIMESTAMP_QUERY)
    .union(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS)
    .union(Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    .union(Features::IMMEDIATES)
    .union(Features::PIPELINE_CACHE)
    .union(Features::MAPPABLE_PRIMARY_BUFFERS)
    .union(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);

/// What kind of device an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// Its own memory behind a bus.
    Discrete,
    /// Shares the processor's memory.
    Integrated,
    /// A share of a GPU in a virtual machine.
    Virtual,
    /// The driver doesn't say.
    Other,
    /// A software rasterizer: right, but slower than the engine's own CPU kernels.
    Cpu,
}

impl DeviceKind {
    /// A word for tables and messages.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Discrete => "discrete GPU",
            DeviceKind::Integrated => "integrated GPU",
            DeviceKind::Virtual => "virtual GPU",
            DeviceKind::Other => "GPU of unknown kind",
            DeviceKind::Cpu => "software rasterizer",
        }
    }

    fn of(raw: wgpu::DeviceType) -> Self {
        match raw {
            wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
            wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
            wgpu::DeviceType::Other => DeviceKind::Other,
            wgpu::DeviceType::Cpu => DeviceKind::Cpu,
        }
    }
}

/// A shape of cooperative matrix: A is `m x k`, B `k x n`, C `m x n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CooperativeShape {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Type of A and B as wgpu spells it (`F16`).
    pub ab: String,
    /// Type of C as wgpu spells it (`F32`).
    pub c: String,
}

/// The facts about an adapter that decide how models run on it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInfo {
    /// The driver's name for the device.
    pub name: String,
    /// `vulkan` or `metal`.
    pub backend: String,
    /// What kind of device it is.
    pub kind: DeviceKind,
    /// Driver and its version.
    pub driver: String,
    /// Largest buffer.
    pub max_buffer_bytes: u64,
    /// Largest range of a buffer that a kernel can bind.
    pub max_binding_bytes: u64,
    /// Offsets of bindings are multiples of this.
    pub binding_alignment_bytes: u32,
    /// Workgroup memory of a kernel.
    pub workgroup_memory_bytes: u32,
    /// Invocations of a workgroup.
    pub max_invocations: u32,
    /// Storage buffers of a kernel.
    pub max_storage_buffers: u32,
    /// Workgroups in each dimension of a grid.
    pub max_workgroups: u32,
    /// Bytes of immediates (0: none).
    pub immediates_bytes: u32,
    /// Smallest and largest subgroup; `None` without subgroup operations.
    pub subgroup: Option<(u32, u32)>,
    /// `enable f16` works.
    pub f16: bool,
    /// Timestamps around passes.
    pub timestamps: bool,
    /// Timestamps between the dispatches of a pass.
    pub timestamps_in_passes: bool,
    /// Compiled pipelines can be saved.
    pub pipeline_cache: bool,
    /// Storage buffers can be mapped.
    pub mappable_storage: bool,
    /// Shapes of cooperative matrices; empty where there are none.
    pub cooperative_matrix: Vec<CooperativeShape>,
}

/// An adapter that can be opened.
#[derive(Clone, Debug)]
pub struct Adapter {
    info: AdapterInfo,
    raw: wgpu::Adapter,
}

impl Adapter {
    /// Its facts.
    pub fn info(&self) -> &AdapterInfo {
        &self.info
    }
}

/// The facts of all adapters, in the drivers' order. Empty where there is no driver.
pub fn adapters() -> Vec<AdapterInfo> {
    enumerate().into_iter().map(|adapter| adapter.info).collect()
}

/// Finds the adapter that `selector` means: `gpu` is the first real GPU, discrete before integrated before virtual and
/// never a software rasterizer; anything else is a part of the adapter's name, whatever the case.
///
/// # Errors
/// [`GpuError::NoAdapter`], which lists the adapters that there are.
pub fn find(selector: &str) -> Result<Adapter, GpuError> {
    let all = enumerate();
    let infos: Vec<_> = all.iter().map(|adapter| &adapter.info).collect();
    match choose(&infos, selector) {
        Some(ix) => Ok(all[ix].clone()),
        None => Err(GpuError::NoAdapter { selector: selector.to_owned(), found: describe(&infos) }),
    }
}

fn choose(infos: &[&AdapterInfo], selector: &str) -> Option<usize> {
    if selector == "gpu" {
        // DeviceKind's order is the order of preference; min_by_key keeps the first of equals.
        let real = (0..infos.len()).filter(|&ix| infos[ix].kind != DeviceKind::Cpu);
        return real.min_by_key(|&ix| infos[ix].kind);
    }
    let wanted = selector.to_lowercase();
    infos.iter().position(|info| !wanted.is_empty() && info.name.to_lowercase().contains(&wanted))
}

fn describe(infos: &[&AdapterInfo]) -> String {
    if infos.is_empty() {
        return "no Vulkan or Metal driver was found (install the GPU's driver, or use --device cpu)".to_owned();
    }
    let names: Vec<_> = infos.iter().map(|info| format!("`{}` ({})", info.name, info.kind.name())).collect();
    format!("there are: {} (choose by a part of the name, or use --device cpu)", names.join(", "))
}

/// The process's connection to its drivers. It is made once: NVIDIA's driver (580.159) no longer finds its device when it
/// has been loaded and unloaded some hundred times in a process.
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        // No flags: the default would build helper pipelines for indirect dispatches, which no plan uses.
        wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::PRIMARY,
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        })
    })
}

fn enumerate() -> Vec<Adapter> {
    let instance = instance();
    let all = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let info = |raw: &wgpu::Adapter| AdapterInfo {
        cooperative_matrix: cooperative_shapes(raw),
        ..facts(raw.get_info(), &raw.limits(), raw.features())
    };
    all.into_iter().map(|raw| Adapter { info: info(&raw), raw }).collect()
}

fn cooperative_shapes(raw: &wgpu::Adapter) -> Vec<CooperativeShape> {
    let shape = |p: wgpu::CooperativeMatrixProperties| CooperativeShape {
        m: p.m_size,
        n: p.n_size,
        k: p.k_size,
        ab: format!("{:?}", p.ab_type),
        c: format!("{:?}", p.cr_type),
    };
    raw.cooperative_matrix_properties().into_iter().map(shape).collect()
}

/// What an adapter or a device offers, but for matrices.
fn facts(info: wgpu::AdapterInfo, limits: &wgpu::Limits, features: Features) -> AdapterInfo {
    AdapterInfo {
        name: info.name,
        backend: info.backend.to_str().to_owned(),
        kind: DeviceKind::of(info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        max_buffer_bytes: limits.max_buffer_size,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        binding_alignment_bytes: limits.min_storage_buffer_offset_alignment,
        workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        immediates_bytes: if features.contains(Features::IMMEDIATES) { limits.max_immediate_size } else { 0 },
        subgroup: features.contains(Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size)),
        f16: features.contains(Features::SHADER_F16),
        timestamps: features.contains(Features::TIMESTAMP_QUERY),
        timestamps_in_passes: features.contains(Features::TIMESTAMP_QUERY_INSIDE_PASSES),
        pipeline_cache: features.contains(Features::PIPELINE_CACHE),
        mappable_storage: features.contains(Features::MAPPABLE_PRIMARY_BUFFERS),
        cooperative_matrix: Vec::new(),
    }
}

/// The features that models use where a device has them; none is required.
pub fn useful_features() -> Features {
    USED
}

fn shares_memory(info: &AdapterInfo) -> bool {
    matches!(info.kind, DeviceKind::Integrated | DeviceKind::Cpu)
}

/// How to open an adapter.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Overrides the decision whether device and processor share memory.
    pub unified: Option<bool>,
}

/// The first thing that went wrong where no caller was waiting for it.
#[derive(Debug, Default)]
struct Fault {
    raised: AtomicBool,
    first: Mutex<Option<FaultKind>>,
}

#[derive(Clone, Debug)]
enum FaultKind {
    Lost(String),
    Uncaptured(String),
}

impl Fault {
    fn raise(&self, kind: FaultKind) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // The first error is the cause, the others its consequences; but only a loss tells the caller to rebuild.
        let replace = match (&*first, &kind) {
            (None, _) => true,
            (Some(FaultKind::Uncaptured(_)), FaultKind::Lost(_)) => true,
            (Some(_), _) => false,
        };
        if replace {
            *first = Some(kind);
        }
        self.raised.store(true, Ordering::Release);
    }
}

/// An opened device with its queue. Cheap to clone; clones share the device.
#[derive(Clone, Debug)]
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: Arc<AdapterInfo>,
    unified: bool,
    fault: Arc<Fault>,
}

impl Gpu {
    /// Opens the adapter with all its limits and those of its features that the engine uses.
    ///
    /// # Errors
    /// [`GpuError::Open`] with the driver's reason.
    pub fn open(adapter: &Adapter, options: &OpenOptions) -> Result<Gpu, GpuError> {
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("ingot"),
            required_features: adapter.raw.features() & USED,
            required_limits: adapter.raw.limits(),
            experimental_features: experimental(adapter.raw.features()),
            // A plan makes a few large buffers at load; small blocks keep a small model's footprint small.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let name = &adapter.info.name;
        let (device, queue) = pollster::block_on(adapter.raw.request_device(&descriptor))
            .map_err(|e| GpuError::Open { adapter: name.clone(), reason: e.to_string() })?;
        let fault = Arc::new(Fault::default());
        let cell = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error| cell.raise(FaultKind::Uncaptured(error.to_string()))));
        let cell = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            cell.raise(FaultKind::Lost(format!("{message} ({reason:?})")));
        });
        let unified = options.unified.unwrap_or_else(|| shares_memory(&adapter.info));
        Ok(Gpu { device, queue, info: Arc::new(adapter.info.clone()), unified, fault })
    }

    /// A device and queue that the program has opened itself. Models use what the device was opened with: storage buffers
    /// as large as a weight and 8 of them a kernel are needed, features of [`useful_features`] make them faster. Errors that
    /// no call waits for, and the loss of the device, go to the handlers that the program has set.
    pub fn share(device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        let info = facts(device.adapter_info(), &device.limits(), device.features());
        let unified = shares_memory(&info);
        Gpu { device, queue, info: Arc::new(info), unified, fault: Arc::new(Fault::default()) }
    }

    /// wgpu's device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// wgpu's queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// The adapter's facts.
    pub fn info(&self) -> &AdapterInfo {
        &self.info
    }

    /// Whether processor and device share memory: weights are then written in place.
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// Nanoseconds of one tick of the device's clock.
    pub fn timestamp_period_ns(&self) -> f32 {
        self.queue.get_timestamp_period()
    }

    /// Reports what went wrong outside of any call: one atomic load while all is well. An error stays.
    ///
    /// # Errors
    /// [`GpuError::Lost`] or [`GpuError::Uncaptured`].
    pub fn check(&self) -> Result<(), GpuError> {
        if !self.fault.raised.load(Ordering::Acquire) {
            return Ok(());
        }
        let adapter = self.info.name.clone();
        let first = self.fault.first.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match first {
            None => Ok(()),
            Some(FaultKind::Lost(reason)) => Err(GpuError::Lost { adapter, reason }),
            Some(FaultKind::Uncaptured(reason)) => Err(GpuError::Uncaptured { adapter, reason }),
        }
    }

    /// Blocks until all submitted work is done. For loading and tests; the tick polls instead.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub fn wait_idle(&self) -> Result<(), GpuError> {
        // A failed wait means a lost device, and its callback knows the reason.
        let waited = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        let lost = |e: wgpu::PollError| GpuError::Lost { adapter: self.info.name.clone(), reason: e.to_string() };
        waited.map(drop).map_err(lost)
    }

    /// Bytes of the largest heap of device memory, where the backend tells.
    pub(crate) fn heap_bytes(&self) -> Option<u64> {
        heap_bytes(&self.device)
    }
}

/// Leave to use cooperative matrices, where there are some.
#[allow(unsafe_code)]
fn experimental(features: Features) -> wgpu::ExperimentalFeatures {
    if !features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: wgpu does not check that a matrix is loaded and stored within its array. `pipelines` makes no kernel with matrices but
    // the catalogue's, whose matrices lie in workgroup memory at places that its numbers bound.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
#[allow(unsafe_code)]
fn heap_bytes(device: &wgpu::Device) -> Option<u64> {
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the handles are only used to ask for properties, while `hal` keeps the device alive.
    let memory = unsafe {
        let hal = device.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = hal.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(hal.raw_physical_device())
    };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn heap_bytes(_device: &wgpu::Device) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing;

    fn adapter(name: &str, kind: DeviceKind) -> AdapterInfo {
        AdapterInfo {
            name: name.into(),
            backend: "vulkan".into(),
            kind,
            driver: String::new(),
            max_buffer_bytes: 0,
            max_binding_bytes: 0,
            binding_alignment_bytes: 256,
            workgroup_memory_bytes: 0,
            max_invocations: 0,
            max_storage_buffers: 0,
            max_workgroups: 0,
            immediates_bytes: 0,
            subgroup: None,
            f16: false,
            timestamps: false,
            timestamps_in_passes: false,
            pipeline_cache: false,
            mappable_storage: false,
            cooperative_matrix: Vec::new(),
        }
    }

    #[test]
    fn gpu_means_the_best_real_one() {
        let cpu = adapter("llvmpipe (LLVM)", DeviceKind::Cpu);
        let integrated = adapter("Intel Arc", DeviceKind::Integrated);
        let discrete = adapter("NVIDIA H100", DeviceKind::Discrete);
        assert_eq!(choose(&[&cpu, &integrated, &discrete], "gpu"), Some(2));
        assert_eq!(choose(&[&cpu, &integrated], "gpu"), Some(1));
        assert_eq!(choose(&[&cpu], "gpu"), None);
        assert_eq!(choose(&[&cpu], "LLVMpipe"), Some(0));
        assert_eq!(choose(&[&cpu, &discrete], "h100"), Some(1));
        assert_eq!(choose(&[&cpu], ""), None);
    }

    #[test]
    fn a_wrong_name_lists_the_adapters() {
        let error = find("no such device").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("no such device") && error.contains("--device cpu"), "{error}");
        for info in adapters() {
            assert!(error.contains(&info.name), "{error}");
        }
    }

    #[test]
    fn opens_and_reports_uncaptured_errors_without_panic() {
        let Some(gpu) = testing::gpu() else { return };
        gpu.check().unwrap();
        gpu.wait_idle().unwrap();
        assert!(gpu.info().max_binding_bytes >= 128 << 20);
        let too_large = wgpu::BufferDescriptor {
            label: Some("absurd"),
            size: u64::MAX / 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        };
        drop(gpu.device().create_buffer(&too_large));
        assert!(matches!(gpu.check(), Err(GpuError::Uncaptured { .. })));
        assert!(matches!(gpu.clone().check(), Err(GpuError::Uncaptured { .. })), "an error stays");
    }

    #[test]
    fn a_lost_device_is_an_error() {
        let Some(gpu) = testing::gpu() else { return };
        gpu.device().destroy();
        let waited = gpu.wait_idle();
        assert!(matches!(waited, Err(GpuError::Lost { .. })), "{waited:?}");
    }

    #[test]
    fn a_software_rasterizer_is_unified_unless_overridden() {
        let Some(adapter) = testing::adapter() else {
            return;
        };
        let unified = Gpu::open(&adapter, &OpenOptions::default()).unwrap().is_unified();
        assert_eq!(unified, matches!(adapter.info().kind, DeviceKind::Cpu | DeviceKind::Integrated));
        let options = OpenOptions { unified: Some(false) };
        assert!(!Gpu::open(&adapter, &options).unwrap().is_unified());
    }
}
