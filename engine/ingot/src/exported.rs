//! What other crates define and a program meets through this one, each with an example of its use here.

/// ```
/// use ingot::{Cost, StepShape};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let cost: Cost = model.step_facts(StepShape { n_sequences: 1, n_tokens: 1, depth: 16 })?.cost;
/// assert!(cost.weight_bytes > 1_000_000 && cost.kv_bytes > 0);
/// assert_eq!(cost.bytes(), cost.weight_bytes + cost.kv_bytes + cost.activation_bytes);
/// # Ok::<(), ingot::Error>(())
/// ```
pub use ingot_ir::cost::Cost;
/// ```
/// assert_eq!(ingot::Bytes(1_500).to_string(), "1.5 kB");
/// ```
pub use ingot_ir::memory::Bytes;
/// ```
/// use ingot::{Bytes, DeviceChoice, LoadOptions, MemoryTable, Model};
///
/// let options = LoadOptions { device: DeviceChoice::Cpu, memory_budget: Some(1000), ..LoadOptions::default() };
/// let error = Model::load("../../models/ingot-tales-1m".as_ref(), options).map(drop).unwrap_err();
/// let table: MemoryTable = *error.memory_table().unwrap();
/// assert!(table.total() > table.weights + table.kv);
/// assert!(table.to_string().ends_with(&Bytes(table.total()).to_string()));
/// ```
pub use ingot_ir::memory::MemoryTable;
/// ```
/// use ingot::{ConvertOptions, Recipe};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let (floats, out) = (folder.path().join("floats"), folder.path().join("mxfp4"));
/// # let options = ConvertOptions { dequantize: true, ..Default::default() };
/// # ingot::convert("../../models/ingot-tales-1m".as_ref(), &floats, &options, &mut |_, _| true)?;
/// let quantize = Some(Recipe::new("mxfp4", None, None, None)?);
/// let options = ConvertOptions { quantize, ..ConvertOptions::default() };
/// let converted = ingot::convert(&floats, &out, &options, &mut |_, _| true)?;
/// assert!((4.25..4.3).contains(&converted.bits_per_weight()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub use ingot_models::convert::ConvertOptions;
/// ```
/// use ingot::{ConvertOptions, Converted};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let (from, to) = ("../../models/ingot-tales-1m".as_ref(), folder.path().join("copy"));
/// let options = ConvertOptions { repack: true, ..ConvertOptions::default() };
/// let converted: Converted = ingot::convert(from, &to, &options, &mut |_, _| true)?;
/// assert_eq!(converted.n_bytes as f64 * 8.0 / converted.n_parameters as f64, converted.bits_per_weight());
/// # Ok::<(), ingot::models::Error>(())
/// ```
pub use ingot_models::convert::Converted;
/// ```
/// use ingot::GgufType;
///
/// assert!(GgufType::NAMES.into_iter().all(|name| GgufType::parse(name).is_some()));
/// assert_eq!(GgufType::parse("q4_k"), None);
/// ```
pub use ingot_models::convert::GgufType;
/// ```
/// use ingot::Recipe;
///
/// let recipe = Recipe::new("affine", Some(6), Some(32), None)?;
/// assert!(matches!(recipe, Recipe::Uniform(quant) if (quant.bits(), quant.group()) == (6, 32)));
/// # Ok::<(), ingot::RecipeError>(())
/// ```
pub use ingot_models::convert::Recipe;
/// ```
/// use ingot::{Recipe, RecipeError};
///
/// assert_eq!(Recipe::new("affine", Some(7), None, None), Err(RecipeError::Bits { found: 7 }));
/// ```
pub use ingot_models::convert::RecipeError;
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
/// ```
/// use ingot::{DeviceChoice, GgufType, LoadOptions, Model, convert_gguf};
///
/// # let folder = tempfile::tempdir().unwrap();
/// let (from, to) = ("../../models/ingot-tales-1m".as_ref(), folder.path().join("tales.gguf"));
/// convert_gguf(from, &to, GgufType::parse("q8_0").unwrap(), &mut |_, _| true).unwrap();
/// let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
/// assert_eq!(Model::load(&to, options)?.facts().n_vocab, 4096);
/// # Ok::<(), ingot::Error>(())
/// ```
pub use ingot_models::convert::convert_gguf;
/// ```
/// use ingot::{Candidate, Candidates, Widths};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let floats = folder.path().join("f32");
/// # let options = ingot::ConvertOptions { dequantize: true, ..Default::default() };
/// # ingot::convert("../../models/ingot-tales-1m".as_ref(), &floats, &options, &mut |_, _| true)?;
/// let candidates = Candidates::measure(&floats, Widths::new(4, 6, 64)?, &mut |_, _| {})?;
/// let table: &Candidate = candidates.matrices.iter().max_by_key(|matrix| matrix.n_numbers()).unwrap();
/// assert_eq!((&*table.path, table.shape), ("model.embed_tokens", [4096, 128]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub use ingot_models::convert::search::Candidate;
/// ```
/// use ingot::{Candidates, Recipe, Target, Widths};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let floats = folder.path().join("f32");
/// # let options = ingot::ConvertOptions { dequantize: true, ..Default::default() };
/// # ingot::convert("../../models/ingot-tales-1m".as_ref(), &floats, &options, &mut |_, _| true)?;
/// let candidates = Candidates::measure(&floats, Widths::new(4, 6, 64)?, &mut |_, _| {})?;
/// // As if all were equally sensitive; `ingot::sensitivities` measures it.
/// let equal = candidates.matrices.iter().map(|matrix| (matrix.path.clone(), 1.0)).collect();
/// let recipe = candidates.recipe(&equal, Target::BitsPerWeight(5.5))?;
/// assert!(matches!(recipe, Recipe::Listed { default, shapes } if default.bits == 4 && !shapes.is_empty()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub use ingot_models::convert::search::Candidates;
/// ```
/// use ingot::{RecipeError, SearchError, Widths};
///
/// assert!(matches!(Widths::new(4, 4, 64), Err(SearchError::NoRange { .. })));
/// let no_format = Widths::new(4, 7, 64).unwrap_err();
/// assert_eq!(no_format, SearchError::Recipe(RecipeError::Bits { found: 7 }));
/// ```
pub use ingot_models::convert::search::SearchError;
/// In JSON as `mlx_lm.dynamic_quant` has them:
///
/// ```
/// let found: ingot::Sensitivities = serde_json::from_str(r#"[["model.layers.0.mlp.up_proj", 0.25]]"#)?;
/// assert_eq!(found[0].1, 0.25);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub use ingot_models::convert::search::Sensitivities;
/// ```
/// use ingot::{Candidates, Target, Widths};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let floats = folder.path().join("f32");
/// # let options = ingot::ConvertOptions { dequantize: true, ..Default::default() };
/// # ingot::convert("../../models/ingot-tales-1m".as_ref(), &floats, &options, &mut |_, _| true)?;
/// let candidates = Candidates::measure(&floats, Widths::new(3, 6, 64)?, &mut |_, _| {})?;
/// assert_eq!(candidates.equal(Target::BitsPerWeight(5.0))?.bits, 4);
/// assert!(candidates.equal(Target::Bytes(1000)).is_err(), "3 bits everywhere are more");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub use ingot_models::convert::search::Target;
/// ```
/// use ingot::{Widths, models::formats::affine::QuantShape};
///
/// let (low, high) = (QuantShape { bits: 4, group: 64 }, QuantShape { bits: 6, group: 64 });
/// assert_eq!(Widths::new(4, 6, 64), Widths::between(low, high));
/// assert!(Widths::between(low, QuantShape { group: 32, ..high }).is_ok(), "and 4 to 6 bits in groups of 32");
/// ```
pub use ingot_models::convert::search::Widths;
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
/// ```
/// use ingot::MemoryUse;
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let MemoryUse { active, peak } = model.memory();
/// assert!(active > 0 && peak >= active);
/// # Ok::<(), ingot::Error>(())
/// ```
pub use ingot_runtime::backend::MemoryUse;
/// ```
/// use ingot::Ceilings;
///
/// let h100 = Ceilings { read_gb_s: 3140.0, gflop_s: 50_000.0 };
/// // A token of 4.5 GB of weights and 16 GFLOP is bound by memory.
/// assert!((h100.least_s(4_500_000_000, 16_000_000_000) - 4.5 / 3140.0).abs() < 1e-9);
/// ```
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
/// assert!(!Sampling { repetition, ..Sampling::default() }.is_greedy());
/// ```
pub use ingot_runtime::sample::Penalty;
/// ```
/// use ingot::Sampling;
///
/// let sampling = Sampling { temperature: 0.8, min_p: 0.05, ..Sampling::default() };
/// assert!(sampling.check(4096).is_ok());
/// assert!(Sampling { top_p: 1.5, ..sampling }.check(4096).is_err());
/// ```
pub use ingot_runtime::sample::Sampling;
/// ```
/// use ingot::{FinishReason, GenerateOptions};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let options = GenerateOptions { max_tokens: 4, ignore_eos: true, ..GenerateOptions::default() };
/// let answer = model.generate(&model.chat_prompt("Hi")?, &options, |_| true)?;
/// assert_eq!((answer.finish, &*answer.finish.to_string()), (FinishReason::Length, "length"));
/// # Ok::<(), ingot::Error>(())
/// ```
pub use ingot_runtime::world::FinishReason;

/// The compiler, for programs that look at plans.
///
/// ```
/// use ingot::{RandomShape, compiler};
///
/// let graph = RandomShape::named("llama-1b")?.graph()?;
/// let plan = compiler::compile(&graph, &compiler::TargetProfile::cpu(), compiler::Options::new(4096))?;
/// assert!(plan.weight_bytes() > 600_000_000, "1.24 billion weights of 4 bits, nothing of which was made");
/// # Ok::<(), ingot::Error>(())
/// ```
pub use ingot_compiler as compiler;
/// The graph and plan types.
///
/// ```
/// use ingot::ir::weight::Format;
///
/// let format = Format::parse("affine4g64_f16").unwrap();
/// assert!(format.is_quantized() && format.takes_cols(4096) && !format.takes_cols(100));
/// ```
pub use ingot_ir as ir;
/// Checkpoint formats, tokenizer, chat templates.
///
/// ```
/// let model = ingot::models::Model::open("../../models/ingot-tales-1m".as_ref())?;
/// assert_eq!((model.spec.architecture.name(), model.spec.max_position_embeddings), ("llama", 1024));
/// # Ok::<(), ingot::models::Error>(())
/// ```
pub use ingot_models as models;
/// The runtime, for programs that drive the tick themselves.
///
/// ```
/// use ingot::runtime::sample::argmax;
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let (logits, n_vocab) = model.logits(&model.chat_prompt("Tell me a story.")?)?;
/// let greedy = argmax(&logits[logits.len() - n_vocab..]);
/// assert!(!model.eos_ids().contains(&greedy));
/// # Ok::<(), ingot::Error>(())
/// ```
pub use ingot_runtime as runtime;
/// The graphics API, for programs that bring their own device.
///
/// ```
/// use ingot::{runtime::gpu::useful_features, wgpu::Features};
///
/// assert!(useful_features().contains(Features::SUBGROUP), "what models use where a device has it");
/// ```
pub use wgpu;
