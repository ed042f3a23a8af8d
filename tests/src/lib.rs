//! The test harness: the graph interpreter that every kernel and pass is held against, random graphs and batches,
//! every tolerance with its reason, and the way to files that the repository does not hold.

pub mod foreign;
pub mod gguf_file;
pub mod interpreter;
pub mod kept;
pub mod mutate;
pub mod random;
pub mod rig;
pub mod rng;
pub mod sampler_fixture;
pub mod sampling;
pub mod shared;
pub mod stored;
pub mod tolerance;
