//! The files that hold weights, and how the numbers in them are coded.

pub mod safetensors;
pub mod checkpoint;
pub mod affine;
