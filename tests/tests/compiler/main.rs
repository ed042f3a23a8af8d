//! Tests of the representations and the compiler. They need no device and no files.

mod alias;
mod artifact;
mod assign_layout;
mod bucket;
mod canonicalize;
mod compile;
mod drop_unused_rows;
mod emit;
mod fusion;
mod group;
mod house;
mod interpreter;
mod merge_matmuls;
mod order;
mod pair_rotary;
mod plan_memory;
mod repack;
mod select;
mod split_large;
mod step;
mod stranger;
mod support;
mod target;
mod text;
mod tiles;
mod verify;
