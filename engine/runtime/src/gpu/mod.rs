//! The device layer: everything that touches wgpu.
//!
//! | module | concern |
//! |---|---|
//! | [`device`] | list, choose and open an adapter; faults (errors nobody waited for, a lost device) |
//! | [`memory`] | buffers: placement, accounting, the budget |
//! | [`upload`] | how weights get to the device |
//! | [`pipelines`] | many compute pipelines on several threads, identical ones once |
//! | [`readback`] | bytes back to the processor without ever blocking the tick |
//! | [`execute`] | the plan's steps: load, bind once, encode, submit, read back |
//! | [`timing`] | timestamps around a step and around each dispatch |
//! | [`ceilings`] | what the device can do at most: a read stream, arithmetic |
//! | [`tune`] | one kernel by itself, many times: how long it takes |
//!
//! Nothing here reads the environment, and nothing panics on what a device answers: wgpu's default handlers abort the
//! process, so [`device::Gpu::open`] replaces both, and [`device::Gpu::check`] turns what they saw into an error.

pub mod device;
mod error;
pub mod memory;
pub mod pipelines;
pub mod readback;
pub mod timing;
pub mod tune;
pub mod ceilings;
pub mod upload;
pub mod execute;

pub use device::{
    Adapter, AdapterInfo, CooperativeShape, DeviceKind, Gpu, OpenOptions, adapters, find, useful_features,
};
pub use error::GpuError;
pub use memory::{GpuBuffer, Memory, MemoryOptions, MemoryUse};
pub use pipelines::{BindingSpec, Pipeline, PipelineCache, PipelineSet, PipelineSpec};
pub use readback::ReadBack;
pub use timing::Timer;

#[cfg(test)]
mod testing;
