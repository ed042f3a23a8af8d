//! Every kernel against the interpreter, on the processor and on the first adapter.
//!
//! A plan leaves the graph's first output in the logits buffer, whatever computes it: a small graph that ends in the op
//! under test shows that op's kernel. Memory that no kernel has written is NaN, so that a kernel that reads it fails.

#[path = "kernels/attention.rs"]
mod attention;
#[path = "kernels/coop.rs"]
mod coop;
#[path = "kernels/epilogues.rs"]
mod epilogues;
#[path = "kernels/experts.rs"]
mod experts;
#[path = "kernels/formats.rs"]
mod formats;
#[path = "kernels/rows.rs"]
mod rows;
#[path = "kernels/sampled.rs"]
mod sampled;
#[path = "kernels/sampling.rs"]
mod sampling;
#[path = "kernels/support.rs"]
mod support;
