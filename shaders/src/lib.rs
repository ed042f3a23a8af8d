//! Ingot's WGSL kernels: templates with open places, the linker that closes them, and the catalogue of what may be put in.
//!
//! ```text
//! kernels/*.wgsl   templates, one entry point `main` each; a template's first comment is its contract
//! lib/*.wgsl       functions that they share
//! slot/*.wgsl      providers for open places: weight formats, rows, prologues, ways to sum over lanes
//! ```
//!
//! [`link`] turns a [`KernelSpec`] into one module of plain WGSL: a header of constants, then only the modules that
//! the template imports, comments and all. Equal specs give equal text. [`grid`] says how many workgroups it takes.

pub mod backend;
mod catalog;
mod cluster;
mod consts;
mod coop;
mod epilogue;
mod files;
mod flash;
pub mod limits;
mod link;
pub mod lint;
pub mod reflect;
mod spec;
mod unit_coop;
mod unit_half;
mod unit_int8;

pub use catalog::{grid, link};
pub use consts::{ConstDefault, ConstRule, EXPERT_RULES, ROPE_KV_RULES, const_rules, const_value};
pub use link::{Consumer, LinkError, wgsl_for};
pub use spec::{
    Access, BindingInfo, Const, EpilogueOp, GridRule, GridUnit, KFormat, KernelSpec, LinkedKernel, Prologue, Role,
    Rows, ScaleType, Template, Tier, WeightFormat,
};
