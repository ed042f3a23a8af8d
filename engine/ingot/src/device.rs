//! Choosing what runs a model.

use crate::Error;
use ingot_compiler::TargetProfile;
use ingot_compiler::target::{CoopScalar, CoopShape, Limits};
use ingot_ir::kernel::{KernelSpec, Template};
use ingot_ir::plan::Plan;
use ingot_runtime::gpu::{self, Adapter, AdapterInfo, CooperativeShape, DeviceKind, Gpu, OpenOptions};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// What `--device` says.
///
/// ```
/// use ingot::DeviceChoice;
///
/// assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
/// assert_eq!("H100".parse(), Ok(DeviceChoice::Named("H100".into())));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum DeviceChoice {
    /// A real GPU if there is one, else the processor. Never a software rasterizer.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The first real GPU.
    Gpu,
    /// The first adapter whose name contains this, of any kind.
    Named(String),
}

impl FromStr for DeviceChoice {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            _ => Self::Named(text.to_owned()),
        })
    }
}

/// A device that a model can be loaded on. It prints as its name with what an adapter tells of itself.
///
/// ```
/// use ingot::DeviceInfo;
///
/// let cpu = DeviceInfo::Cpu { n_threads: 4 };
/// assert_eq!(cpu.to_string(), "CPU");
/// ```
#[derive(Clone, Debug)]
pub enum DeviceInfo {
    /// The processor, with its threads.
    Cpu {
        /// Hardware threads.
        n_threads: usize,
    },
    /// A graphics adapter.
    Gpu(AdapterInfo),
}

impl DeviceInfo {
    /// `CPU`, or the driver's name for the adapter, a part of which chooses it ([`DeviceChoice::Named`]).
    ///
    /// ```
    /// assert_eq!(ingot::devices()[0].name(), "CPU");
    /// ```
    pub fn name(&self) -> &str {
        match self {
            Self::Cpu { .. } => "CPU",
            Self::Gpu(info) => &info.name,
        }
    }
}

impl fmt::Display for DeviceInfo {
    /// The name, and of an adapter also API, kind and driver.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Cpu { .. } => Ok(()),
            Self::Gpu(info) => write!(f, " ({}, {}, {})", info.backend, info.kind.name(), info.driver),
        }
    }
}

/// The processor, then every adapter in the drivers' order.
///
/// ```
/// let devices = ingot::devices();
/// for device in &devices {
///     println!("{device}");
/// }
/// assert!(matches!(devices[0], ingot::DeviceInfo::Cpu { n_threads } if n_threads > 0));
/// ```
pub fn devices() -> Vec<DeviceInfo> {
    let cpu = DeviceInfo::Cpu { n_threads: n_threads() };
    std::iter::once(cpu).chain(gpu::adapters().into_iter().map(DeviceInfo::Gpu)).collect()
}

pub(crate) fn n_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A GPU that a model is to run on.
#[derive(Debug)]
pub(crate) enum Place {
    /// To be opened.
    Adapter(Adapter),
    /// The program's own.
    Open(Gpu),
}

impl Place {
    /// Its facts.
    pub(crate) fn info(&self) -> &AdapterInfo {
        match self {
            Self::Adapter(adapter) => adapter.info(),
            Self::Open(gpu) => gpu.info(),
        }
    }

    /// The opened device.
    pub(crate) fn open(&self, unified: Option<bool>) -> Result<Gpu, Error> {
        match self {
            Self::Adapter(adapter) => Ok(Gpu::open(adapter, &OpenOptions { unified })?),
            Self::Open(gpu) => Ok(gpu.clone()),
        }
    }
}

/// The adapter that a choice means, `None` for the processor.
pub(crate) fn resolve(choice: &DeviceChoice) -> Result<Option<Adapter>, Error> {
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Auto => Ok(gpu::find("gpu").ok()),
        DeviceChoice::Gpu => Ok(Some(gpu::find("gpu")?)),
        DeviceChoice::Named(name) => Ok(Some(gpu::find(name)?)),
    }
}

/// The GPU that a model is to run on, `None` for the processor. A device that is open already is taken in any case.
pub(crate) fn place(choice: &DeviceChoice, open: Option<Gpu>) -> Result<Option<Place>, Error> {
    match open {
        Some(gpu) => Ok(Some(Place::Open(gpu))),
        None => Ok(resolve(choice)?.map(Place::Adapter)),
    }
}

/// What the compiler is told of the device that a choice means.
///
/// ```
/// assert_eq!(ingot::target(&ingot::DeviceChoice::Cpu)?.name, "cpu");
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// As opening the device.
pub fn target(choice: &DeviceChoice) -> Result<TargetProfile, Error> {
    Ok(resolve(choice)?.as_ref().map_or_else(TargetProfile::cpu, |adapter| target_of(adapter.info())))
}

/// The adapter that is to run an artifact's plan, `None` for the processor.
///
/// # Errors
/// [`Error::OtherTarget`] if the plan was not compiled for the choice.
pub(crate) fn resolve_for(
    choice: &DeviceChoice,
    open: Option<Gpu>,
    plan: &Plan,
    path: &Path,
) -> Result<Option<Place>, Error> {
    let other = |device: String, advice: String| {
        Err(Error::OtherTarget { path: path.to_path_buf(), target: plan.target.clone(), device, advice })
    };
    let advice = |target: &str| format!("compile the model with `--target {target}`");
    let found = match choice {
        _ if open.is_some() => open.map(Place::Open),
        DeviceChoice::Auto if plan.is_cpu => None,
        // The plan says what is wanted, so a software rasterizer is not too slow to be found.
        DeviceChoice::Auto if plan.target == TargetProfile::lavapipe().name => {
            let found = gpu::adapters().into_iter().find(|info| info.kind == DeviceKind::Cpu);
            match found {
                Some(info) => Some(Place::Adapter(gpu::find(&info.name)?)),
                None => return other("this machine, which has no software rasterizer".into(), advice("cpu")),
            }
        }
        DeviceChoice::Auto => match gpu::find("gpu") {
            Ok(adapter) => Some(Place::Adapter(adapter)),
            Err(_) => return other("this machine, which has no GPU".into(), advice("cpu")),
        },
        other => place(other, None)?,
    };
    match &found {
        None if plan.is_cpu => Ok(found),
        None => other("the CPU".into(), format!("choose another --device, or {}", advice("cpu"))),
        Some(place) => {
            let target = target_of(place.info());
            let uses = |text: &str| plan.kernels.as_slice().iter().any(|kernel| kernel.wgsl.contains(text));
            let fits = !plan.is_cpu
                && runs(&target.name, &plan.target)
                && plan.max_binding_bytes <= target.max_binding_bytes
                && (target.subgroups || !uses("subgroup"))
                && (target.limits.f16 || !uses("enable f16;"))
                && plan.kernels.as_slice().iter().all(|kernel| has_units(&target, &kernel.spec));
            if fits { Ok(found) } else { other(place.info().name.clone(), advice("this")) }
        }
    }
}

/// Whether a target has the matrix units that a kernel takes.
fn has_units(target: &TargetProfile, spec: &KernelSpec) -> bool {
    let units = match (spec.template, spec.weight, spec.u32("K"), spec.u32("HEAD_DIM")) {
        (Template::MatmulCoop, Some(format), Some(n_cols), _) => target.matrix_units(format, n_cols),
        (Template::AttentionCoop, _, _, Some(head_dim)) => target.attention_units(head_dim),
        _ => return true,
    };
    units.is_some_and(|units| (Some(units.side), Some(units.lanes)) == (spec.u32("SIDE"), spec.u32("LANES")))
}

/// Whether a device of one target runs plans of another: its own, and those of the families that it belongs to.
fn runs(device: &str, plan: &str) -> bool {
    device == plan || plan == "webgpu" || (plan == "vulkan" && device != "apple")
}

/// What the compiler is told of an adapter: the preset of its platform, with the adapter's own limits.
///
/// ```
/// use ingot::DeviceInfo;
///
/// for device in ingot::devices() {
///     if let DeviceInfo::Gpu(adapter) = device {
///         let target = ingot::target_of(&adapter);
///         println!("{}: {}", adapter.name, target.name);
///         assert!(!target.is_cpu && target.max_binding_bytes <= adapter.max_binding_bytes);
///     }
/// }
/// ```
pub fn target_of(info: &AdapterInfo) -> TargetProfile {
    let is_nvidia = [&info.name, &info.driver].iter().any(|text| text.to_ascii_lowercase().contains("nvidia"));
    let preset = if info.kind == DeviceKind::Cpu {
        TargetProfile::lavapipe()
    } else if info.backend.eq_ignore_ascii_case("metal") {
        TargetProfile::apple()
    } else if is_nvidia {
        TargetProfile::nvidia()
    } else {
        TargetProfile::vulkan()
    };
    let scalar = |name: &str| match name {
        "F16" => Some(CoopScalar::F16),
        "F32" => Some(CoopScalar::F32),
        _ => None,
    };
    let shape = |shape: &CooperativeShape| {
        let &CooperativeShape { m, n, k, ref ab, ref c } = shape;
        Some(CoopShape { m, n, k, ab: scalar(ab)?, c: scalar(c)? })
    };
    // Of every Metal device wgpu tells subgroups of 4 to 64; those with matrices are Apple's, whose preset knows better.
    let has_apples = preset.name == "apple" && !info.cooperative_matrix.is_empty();
    let limits = Limits {
        max_storage_buffers: info.max_storage_buffers,
        workgroup_bytes: info.workgroup_memory_bytes,
        max_invocations: info.max_invocations,
        max_workgroups: info.max_workgroups,
        subgroup: info.subgroup.and(if has_apples { preset.limits.subgroup } else { info.subgroup }),
        f16: info.f16,
        // No adapter tells, so the preset decides.
        integer_dot: preset.limits.integer_dot,
        cooperative: info.cooperative_matrix.iter().filter_map(shape).collect(),
    };
    TargetProfile {
        // Metal binds whole buffers, but tells kernels their length in 32 bits.
        max_binding_bytes: info.max_binding_bytes.min(preset.max_binding_bytes),
        subgroups: info.subgroup.is_some(),
        limits,
        unified_memory: preset.unified_memory || info.kind == DeviceKind::Integrated,
        ..preset
    }
}
