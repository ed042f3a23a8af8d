//! A language-model engine to embed: load a checkpoint, generate text.
//!
//! ```
//! use ingot::{GenerateOptions, LoadOptions, Model};
//!
//! # std::env::set_current_dir("../..").unwrap();
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
mod line;
mod engine;
mod conversation;
mod places;
mod prompt_cache;
mod steps;
mod vocabulary;
mod measure;
mod windows;
mod quality;
mod search;
mod doctor;
mod exported;

pub use cache::{Cache, CacheEntry};
pub use compile::{CompileOptions, compile, compile_random};
pub use conversation::{Conversation, Message};
pub use device::{DeviceChoice, DeviceInfo, devices, target, target_of};
pub use doctor::{Check, Diagnosis, DoctorOptions, doctor};
pub use engine::{Engine, MAX_WAITING, Pieces, WaitingPieces};
pub use error::Error;
pub use exported::*;
pub use generate::{Answer, GenerateOptions, Logprobs, Piece, Stats};
pub use language::Language;
pub use load::{AdjustTarget, LoadOptions, Progress, round_activations};
pub use lower::default_context;
pub use measure::{Measured, Workload};
pub use model::{Model, PlanFacts};
pub use places::Place;
pub use prompt_cache::prompt_origin;
pub use quality::{Comparison, Mean, Position, compare};
pub use random::{RandomExperts, RandomShape};
pub use search::sensitivities;
pub use steps::{Profile, ProfiledKernel, ProfiledLaunch, StepFacts, StepShape, ceilings};
pub use stream::Stream;
pub use tiles::{Tiles, stored_path, tuned_target};
pub use tune::{TuneOptions, TuneProgress, Tuned, TunedShape, tune, tune_random};
pub use vocabulary::made_up_tokenizer;
pub use windows::Windows;
