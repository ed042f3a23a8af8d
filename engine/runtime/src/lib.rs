//! Executes Ingot plans, on a GPU through wgpu or on the processor.
//!
//! The runtime is data-oriented: [`world`] holds the tables, [`tick`] is the serving loop, [`system`] its systems, each
//! a function on the columns that it needs. [`backend`] is the narrow place where a packed step meets a device.
//!
//! Architecture invariant: this crate knows plans, not models, shaders or the compiler.

mod error;
pub mod tick;
pub mod world;
pub mod system;
pub mod kv;
mod kept;
pub mod sample;
mod budget;
pub mod account;
pub mod backend;
pub mod ceilings;
pub mod cpu;
pub mod gpu;

pub use error::RuntimeError;
pub use ingot_ir::memory::Bytes;
pub use kept::{Kept, LayerKv};
