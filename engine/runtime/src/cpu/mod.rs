//! The processor's kernels: one function a template of the plan, over plain slices.
//!
//! | module | template |
//! |---|---|
//! | [`linear`] | matvec, matmul (any number of rows, rms_norm prologue, epilogue) |
//! | [`norm`], [`embed`], [`gather`], [`map`] | rms_norm, embed, gather_rows, map |
//! | [`linear::experts`], [`moe`] | matvec with a stack of experts, moe_route, moe_sum |
//! | [`rope_kv`], [`attention`] | rope_kv, attention over paged KV |
//! | [`sample`] | sample_partial, sample_final: the greatest logit |
//! | [`execute`] | a plan's steps: load, look up once, run |
//!
//! Activations are f32, keys and values what the plan says ([`pages`]), weights stay in their stored type ([`weight`]), arithmetic is f32 with vectors of eight
//! ([`simd`]); on request ([`Activations`]) products with affine matrices round x to 8 bits. Work is spread over a
//! [`pool::Pool`]; memory that a kernel needs beside its operands lives in a [`Scratch`], which only ever grows, so that
//! a decode step allocates nothing once it is warm.
//!
//! Kernels assert the sizes that they are given (a wrong plan stops with a message, never reads elsewhere).

pub mod activations;
pub mod attention;
pub mod embed;
pub mod epilogue;
pub mod gather;
pub mod linear;
pub mod map;
pub mod moe;
pub mod norm;
pub mod pages;
pub mod pool;
pub mod rope_kv;
pub mod sample;
mod scratch;
pub mod simd;
pub mod step_view;
pub mod weight;
pub mod execute;
pub mod ceilings;

#[cfg(test)]
mod testing;

pub use activations::Activations;
pub use epilogue::EpilogueOp;
pub use pool::Pool;
pub use scratch::Scratch;
pub use simd::int8::Int8Level;
pub use step_view::{Rows, StepView};
pub use weight::{FloatType, Format, Segment, Weight, WeightError};
