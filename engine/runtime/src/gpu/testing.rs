//! The adapter that this module's tests run on: any real GPU, else lavapipe, else the test is skipped aloud.

use super::{Adapter, Gpu, OpenOptions, adapters, find};
use std::io::Write;

/// The adapter to test on, if there is one.
pub(crate) fn adapter() -> Option<Adapter> {
    let found = find("gpu").ok().or_else(|| find(&adapters().first()?.name).ok());
    if found.is_none() {
        let _ = writeln!(std::io::stderr(), "skipped: no Vulkan adapter");
    }
    found
}

/// A freshly opened device, if there is an adapter.
pub(crate) fn gpu() -> Option<Gpu> {
    adapter().map(|adapter| Gpu::open(&adapter, &OpenOptions::default()).expect("an adapter opens"))
}

/// A freshly opened device that is treated as unified or discrete.
pub(crate) fn gpu_with(unified: bool) -> Option<Gpu> {
    let options = OpenOptions { unified: Some(unified) };
    adapter().map(|adapter| Gpu::open(&adapter, &options).expect("an adapter opens"))
}
