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
pub mod hub;
mod tiles;
mod tune;
mod load;
mod compile;
mod language;
mod model;
mod form;
mod generate;
mod answering;
mod stream;
mod batch;
mod engine;
mod conversation;
mod prompt_cache;
mod steps;
mod measure;
mod quality;
mod search;
mod doctor;

pub use cache::{Cache, CacheEntry};
pub use compile::{CompileOptions, compile, compile_random};
pub use conversation::{Conversation, Message};
pub use device::{DeviceChoice, DeviceInfo, devices, target, target_of};
pub use doctor::{Check, Diagnosis, DoctorOptions, doctor};
pub use engine::{Engine, Pieces, WaitingPieces};
pub use error::Error;
pub use generate::{Answer, GenerateOptions, Logprobs, Piece, Stats};
pub use ingot_ir::cost::Cost;
pub use ingot_ir::memory::{Bytes, MemoryTable};
pub use ingot_models::convert::search::{Candidate, Candidates, Sensitivities, Target, Widths};
pub use ingot_models::convert::{ConvertOptions, Converted, Recipe, convert};
pub use ingot_models::text::chat_template::ChatOptions;
pub use ingot_models::text::grammar::Grammar;
/// ```
/// use ingot::{DeviceChoice, LoadOptions, Memory, Model};
///
/// let memory = Memory::default();
/// let load = |name: &str| {
///     let options = LoadOptions { device: DeviceChoice::Cpu, memory: memory.clone(), ..LoadOptions::default() };
///     Model::load(format!("../../models/{name}").as_ref(), options)
/// };
/// let first = load("ingot-tales-1m")?;
/// assert_eq!(memory.active(), first.memory().active);
/// memory.set_limit(Some(memory.active() + 1000));
/// assert!(load("ingot-tales-1m").is_err());
/// drop(first);
/// assert_eq!((memory.active(), memory.cached()), (0, 0));
/// # Ok::<(), ingot::Error>(())
/// ```
pub use ingot_runtime::account::Account as Memory;
pub use ingot_runtime::backend::MemoryUse;
pub use ingot_runtime::ceilings::Ceilings;
pub use ingot_runtime::cpu::Activations;
pub use ingot_runtime::gpu::Gpu;
/// ```
/// use ingot::{Adjust, Sampling};
///
/// // No token twice.
/// let adjust = Adjust::new(|tokens, logits| {
///     tokens.iter().for_each(|id| logits[*id as usize] = f32::NEG_INFINITY);
/// });
/// let sampling = Sampling { adjust: Some(adjust), ..Sampling::default() };
/// assert!(!sampling.is_greedy());
/// ```
pub use ingot_runtime::sample::Adjust;
pub use ingot_runtime::sample::{Penalty, Sampling};
pub use ingot_runtime::world::FinishReason;
pub use language::Language;
pub use load::{AdjustTarget, LoadOptions, Progress};
pub use lower::default_context;
pub use measure::{Measured, Workload};
pub use model::{Model, PlanFacts};
pub use quality::{Comparison, Mean, Position, Windows, compare};
pub use random::RandomShape;
pub use search::sensitivities;
pub use steps::{Profile, ProfiledKernel, ProfiledLaunch, StepFacts, StepShape};
pub use stream::Stream;
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
/// The graphics API, for programs that bring their own device.
pub use wgpu;
