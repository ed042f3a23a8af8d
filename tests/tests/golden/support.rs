//! Loading models on the devices of the test machine.

use ingot::compiler::TargetProfile;
use ingot::{Activations, DeviceChoice, DeviceInfo, LoadOptions, Model};
use ingot_tests::shared::skip;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A device of the tests, with its tolerances.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) choice: DeviceChoice,
    pub(crate) is_cpu: bool,
    /// Whether it is an adapter that the processor plays.
    pub(crate) is_software: bool,
}

/// The processor, and the first adapter: a real GPU if there is one, else a software rasterizer. Says so if there is none.
pub(crate) fn devices() -> Vec<Device> {
    let mut list = vec![Device { choice: DeviceChoice::Cpu, is_cpu: true, is_software: false }];
    match found() {
        Some((is_software, name)) => {
            list.push(Device { choice: DeviceChoice::Named(name), is_cpu: false, is_software });
        }
        None => skip("no Vulkan or Metal adapter, so models ran on the CPU alone"),
    }
    list
}

/// The name of the adapter under test.
pub(crate) fn adapter() -> Option<String> {
    found().map(|(_, name)| name)
}

/// The same, and whether it is a software rasterizer.
fn found() -> Option<(bool, String)> {
    static NAME: OnceLock<Option<(bool, String)>> = OnceLock::new();
    let find = || {
        let names = ingot::devices().into_iter().filter_map(|device| match device {
            DeviceInfo::Gpu(info) => Some((info.kind == ingot::runtime::gpu::DeviceKind::Cpu, info.name)),
            DeviceInfo::Cpu { .. } => None,
        });
        names.min_by_key(|(is_software, _)| *is_software)
    };
    NAME.get_or_init(find).clone()
}

/// A software rasterizer takes every core, so that models on it run one after the other.
pub(crate) fn turn(device: &Device) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    (!device.is_cpu).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Loads a checkpoint, the target changed by `adjust`.
pub(crate) fn load(folder: &Path, device: &Device, adjust: impl FnOnce(&mut TargetProfile) + Send + 'static) -> Model {
    let options = LoadOptions {
        device: device.choice.clone(),
        adjust_target: Some(Box::new(adjust)),
        cache: ingot::Cache::Off,
        ..LoadOptions::default()
    };
    Model::load(folder, options).unwrap_or_else(|error| panic!("{} on {device:?}: {error}", folder.display()))
}

/// Loads a checkpoint on the processor with activations rounded to 8 bits.
pub(crate) fn load_rounding(folder: &Path) -> Model {
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        activations: Activations::Int8,
        cache: ingot::Cache::Off,
        ..LoadOptions::default()
    };
    Model::load(folder, options).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}
