//! Tiny checkpoints of every architecture and variant against the logits and greedy ids of transformers and mlx-lm, on every
//! device that there is; and SmolLM2-135M against its reference, where it could be fetched.

#[path = "golden/fixtures.rs"]
mod fixtures;
#[path = "golden/gguf.rs"]
mod gguf;
#[path = "golden/mlx_lm.rs"]
mod mlx_lm;
#[path = "golden/packed.rs"]
mod packed;
#[path = "golden/sampler.rs"]
mod sampler;
#[path = "golden/sampler_cpu.rs"]
mod sampler_cpu;
#[path = "golden/search.rs"]
mod search;
#[path = "golden/smollm2.rs"]
mod smollm2;
#[path = "golden/support.rs"]
mod support;
#[path = "golden/window.rs"]
mod window;
