//! The files that hold weights, and how the numbers in them are coded.

pub mod affine;
pub mod checkpoint;
pub mod safetensors;
