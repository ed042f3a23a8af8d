//! A language-model engine to embed: load a checkpoint, generate text.
//!
//! ```no_run
//! use ingot::{GenerateOptions, LoadOptions, Model};
//!
//! let mut model = Model::load("models/ingot-tales-14m".as_ref(), LoadOptions::default())?;
//! let prompt = model.chat_prompt("Tell me a story.")?;
//! let answer = model.generate(&prompt, &GenerateOptions::default(), |piece| {
//!     print!("{}", piece.text);
//!     true
//! })?;
//! println!("\n{:.0} tokens/s", answer.stats.generation_tps());
//! # Ok::<(), ingot::Error>(())
//! ```
//!
//! This crate joins the others: `ingot-models` lowers the checkpoint to a graph, `ingot-compiler` makes a plan of it for
//! the device at hand, `ingot-runtime` runs the plan.

mod error;
mod device;
mod weights;
mod random;
mod lower;
mod cache;
mod tiles;
mod tune;
mod load;
mod compile;
mod model;
mod generate;
mod steps;
mod measure;
mod quality;
mod doctor;

pub use cache::{Cache, CacheEntry};
pub use compile::{CompileOptions, compile, compile_random};
pub use device::{DeviceChoice, DeviceInfo, devices, target, target_of};
pub use doctor::{Check, Diagnosis, DoctorOptions, doctor};
pub use error::Error;
pub use generate::{Answer, GenerateOptions, Logprobs, Piece, Stats};
pub use ingot_ir::cost::Cost;
pub use ingot_ir::memory::{Bytes, MemoryTable};
pub use ingot_models::convert::{ConvertOptions, Converted, Recipe, convert};
pub use ingot_runtime::ceilings::Ceilings;
pub use ingot_runtime::cpu::Activations;
pub use ingot_runtime::sample::{Penalty, Sampling};
pub use ingot_runtime::world::FinishReason;
pub use load::{AdjustTarget, LoadOptions, Progress};
pub use measure::{Measured, Workload};
pub use model::{Model, PlanFacts};
pub use quality::{Comparison, Mean, Position, Windows, compare};
pub use random::RandomShape;
pub use steps::{Profile, ProfiledKernel, ProfiledLaunch, StepFacts, StepShape};
pub use tiles::{Tiles, stored_path, tuned_target};
pub use tune::{TuneOptions, TuneProgress, Tuned, TunedShape, tune, tune_random};

/// The compiler, for programs that look at plans.
pub use ingot_compiler as compiler;
/// The graph and plan types.
pub use ingot_ir as ir;
/// Checkpoint formats, tokenizer, chat templates.
pub use ingot_models as models;
/// The runtime, for programs that drive the tick themselves.
pub use ingot_runtime as runtime;
