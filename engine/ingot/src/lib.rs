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
pub use engine::{Engine, MAX_WAITING, Pieces, WaitingPieces};
pub use error::Error;
pub use generate::{Answer, GenerateOptions, Logprobs, Piece, Stats};
pub use ingot_ir::cost::Cost;
/// ```
/// assert_eq!(ingot::Bytes(1_500).to_string(), "1.5 kB");
/// ```
pub use ingot_ir::memory::Bytes;
pub use ingot_ir::memory::MemoryTable;
/// ```
/// use ingot::{ConvertOptions, models::formats::safetensors::StoredType};
///
/// # let folder = tempfile::tempdir().unwrap();
/// let (from, to) = ("../../models/ingot-tales-1m".as_ref(), folder.path().join("f32"));
/// let options = ConvertOptions { dequantize: true, dtype: Some(StoredType::F32), ..ConvertOptions::default() };
/// let converted = ingot::convert(from, &to, &options, &mut |_, _| true)?;
/// assert_eq!((converted.n_files, converted.bits_per_weight()), (1, 32.0));
/// # Ok::<(), ingot::models::Error>(())
/// ```
pub use ingot_models::convert::convert;
pub use ingot_models::convert::search::{Candidate, Candidates, Sensitivities, Target, Widths};
pub use ingot_models::convert::{ConvertOptions, Converted, GgufType, Recipe, convert_gguf};
/// ```
/// # use ingot::{ChatOptions, DeviceChoice, LoadOptions, Model};
/// # let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
/// let model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
/// let messages = serde_json::json!([{ "role": "user", "content": "Hi" }]);
/// let options = ChatOptions { add_generation_prompt: false, ..ChatOptions::default() };
/// assert!(model.messages_prompt(&messages, &options)?.len() < model.chat_prompt("Hi")?.len());
/// # Ok::<(), ingot::Error>(())
/// ```
pub use ingot_models::text::chat_template::ChatOptions;
/// ```
/// # use ingot::{DeviceChoice, GenerateOptions, Grammar, LoadOptions, Model};
/// # let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
/// let mut model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
/// let prompt = model.chat_prompt("How many?")?;
/// let schema = serde_json::json!({ "type": "integer", "minimum": 1, "maximum": 99 });
/// let options = GenerateOptions { grammar: Some(Grammar::JsonSchema(schema)), ..GenerateOptions::default() };
/// let answer = model.generate(&prompt, &options, |_| true)?;
/// assert!((1..=99).contains(&answer.text.trim().parse::<u32>().unwrap()));
/// # Ok::<(), ingot::Error>(())
/// ```
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
/// ```
/// use ingot::{Activations, LoadOptions};
///
/// let options = LoadOptions { activations: "int8".parse().unwrap(), ..LoadOptions::default() };
/// assert_eq!(options.activations, Activations::Int8);
/// ```
pub use ingot_runtime::cpu::Activations;
/// ```no_run
/// use ingot::{Gpu, LoadOptions, Model, wgpu};
///
/// fn load(device: wgpu::Device, queue: wgpu::Queue) -> Result<Model, ingot::Error> {
///     let options = LoadOptions { gpu: Some(Gpu::share(device, queue)), ..LoadOptions::default() };
///     Model::load("models/ingot-tales-14m".as_ref(), options)
/// }
/// ```
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
/// ```
/// use ingot::{Penalty, Sampling};
///
/// let repetition = Penalty { strength: 1.1, window: 64 };
/// let sampling = Sampling { temperature: 0.8, min_p: 0.05, repetition, ..Sampling::default() };
/// assert!(sampling.check(4096).is_ok());
/// ```
pub use ingot_runtime::sample::{Penalty, Sampling};
pub use ingot_runtime::world::FinishReason;
pub use language::Language;
pub use load::{AdjustTarget, LoadOptions, Progress, round_activations};
pub use lower::default_context;
pub use measure::{Measured, Workload};
pub use model::{Model, PlanFacts};
pub use quality::{Comparison, Mean, Position, Windows, compare};
pub use random::RandomShape;
pub use search::sensitivities;
pub use steps::{Profile, ProfiledKernel, ProfiledLaunch, StepFacts, StepShape, ceilings};
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
