//! Choosing what runs a model.

use crate::Error;
use ingot_compiler::TargetProfile;
use ingot_runtime::gpu::{self, Adapter, AdapterInfo, DeviceKind};
use std::str::FromStr;

/// What `--device` says.
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

/// A device that a model can be loaded on.
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

/// The processor and every adapter.
pub fn devices() -> Vec<DeviceInfo> {
    let cpu = DeviceInfo::Cpu { n_threads: n_threads() };
    std::iter::once(cpu).chain(gpu::adapters().into_iter().map(DeviceInfo::Gpu)).collect()
}

pub(crate) fn n_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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

/// The target of the device that [`DeviceChoice::Auto`] takes.
pub fn this_target() -> TargetProfile {
    let adapter = resolve(&DeviceChoice::Auto).ok().flatten();
    adapter.map_or_else(TargetProfile::cpu, |adapter| target_of(adapter.info()))
}

/// What the compiler is told of an adapter.
pub(crate) fn target_of(info: &AdapterInfo) -> TargetProfile {
    let preset = if info.kind == DeviceKind::Cpu {
        TargetProfile::lavapipe()
    } else if info.backend.eq_ignore_ascii_case("metal") {
        TargetProfile::apple()
    } else {
        TargetProfile::vulkan()
    };
    TargetProfile { max_binding_bytes: info.max_binding_bytes, subgroups: info.subgroup.is_some(), ..preset }
}
