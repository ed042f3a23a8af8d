//! The files that hold weights, and how the numbers in them are coded.

pub mod affine;
pub mod checkpoint;
pub mod foreign;
pub mod gguf;
pub mod packed;
pub mod k_blocks;
pub mod safetensors;
pub mod small_float;
