//! From a checkpoint to an MLX folder: cast, quantized or dequantized, with `mlx_lm.convert`'s choices and layout; or to a
//! GGUF file ([`convert_gguf`]).
//!
//! It streams: rows are encoded in parallel while earlier ones are written, so memory does not grow with the model. Folder
//! and file take their names once they are whole.

mod recipe;
mod part;
mod in_order;
pub mod search;
mod stream;
mod gguf;

pub use gguf::{GgufType, convert_gguf};
pub use recipe::{Recipe, RecipeError};

use crate::blocks::stack_path;
use crate::config::{ModelSpec, Quant};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::formats::affine::QuantShape;
use crate::formats::safetensors::StoredType;
use crate::model::Model;
use ingot_ir::graph::{Graph, Op};
use ingot_ir::weight::{Format, Layout, ScaleType, Source, Weight, WeightId};
use part::Part;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use stream::{Item, Kind, Rows, Shard};

/// Bytes of a weight file, as in mlx-lm; a module that is larger has a file of its own.
const MAX_FILE_BYTES: u64 = 5 << 30;

/// Small files that go along, besides `*.py`.
const COPIED: [&str; 11] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
];

/// What becomes of the weights.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConvertOptions {
    /// Quantizes matrices that are not quantized yet.
    pub quantize: Option<Recipe>,
    /// Makes quantized matrices floats.
    pub dequantize: bool,
    /// Type of all floats: F16, BF16 or F32. `None` takes the configuration's `torch_dtype`, else leaves them as they are.
    pub dtype: Option<StoredType>,
    /// Takes everything over as it is and refuses what would lose something: of a GGUF file, blocks that MLX has no form for.
    pub repack: bool,
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Converted {
    /// Bytes of all tensors.
    pub n_bytes: u64,
    /// Numbers in the model.
    pub n_parameters: u64,
    /// Weight files.
    pub n_files: usize,
}

impl Converted {
    /// Bits a weight, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        self.n_bytes as f64 * 8.0 / self.n_parameters.max(1) as f64
    }
}

/// Converts the checkpoint `source`, a folder or a GGUF file, into the folder `out`, which must not exist. `progress` is told
/// bytes written and bytes in all; `false` stops.
///
/// # Errors
/// Those of the checkpoint; [`Error::Exists`] and [`Error::InWork`]; [`Error::Unsupported`] if what is asked for makes no
/// sense; [`Error::Io`]; [`Error::Stopped`]. Nothing is left at `out` then, nor beside it.
pub fn convert(
    source: &Path,
    out: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Converted> {
    if out.exists() {
        return Err(Error::Exists { path: out.to_path_buf() });
    }
    let unsupported = |what: &str| Error::Unsupported { path: source.to_path_buf(), what: what.into() };
    if options.dequantize && options.quantize.is_some() {
        return Err(unsupported("either quantize or dequantize, not both"));
    }
    if options.repack && (options.dequantize || options.quantize.is_some() || options.dtype.is_some()) {
        return Err(unsupported(
            "repacking leaves every number as it is: neither quantize, dequantize nor name a type",
        ));
    }
    if let Some(recipe) = &options.quantize {
        recipe.check()?;
    }
    let model = Model::open(source)?;
    let Value::Object(mut config) = model.files.json_or_null("config.json")? else {
        return Err(Error::malformed(&source.join("config.json"), "not a JSON object"));
    };
    take_eos(&mut config, &model.files)?;
    let dtype = if options.repack { None } else { options.dtype.or_else(|| config_dtype(&config)) };
    let chosen = choose(&model, options, dtype).map_err(|error| model.checkpoint.in_own_words(error));
    let Chosen { items, new, kept } = chosen?;
    describe(&mut config, &model.spec, options, &new, &kept);
    let shards = shards(items);
    let converted = Converted {
        n_bytes: shards.iter().map(Shard::n_bytes).sum(),
        n_parameters: shards.iter().flat_map(|shard| &shard.items).map(Item::n_numbers).sum(),
        n_files: shards.len(),
    };
    let part = Part::folder(out)?;
    let mut told = counted(out, converted.n_bytes, progress);
    fill_folder(&model.files, part.path(), &config, &shards, &converted, &mut told)?;
    drop(told);
    part.finish()?;
    Ok(converted)
}

/// Puts the ids that end a text into the configuration if the settings of generation name any: mlx-lm does it as it loads.
fn take_eos(config: &mut Map<String, Value>, files: &Files) -> Result<()> {
    let mut generation = files.json_or_null("generation_config.json")?;
    let ids = generation.get_mut("eos_token_id").map(Value::take).unwrap_or_default();
    // What Python takes for false is none.
    let is_none = ids.is_null() || ids.as_u64() == Some(0) || ids.as_array().is_some_and(Vec::is_empty);
    if !is_none {
        config.insert("eos_token_id".into(), ids);
    }
    Ok(())
}

/// Told the bytes that were written since; its error ends the writing.
type Told<'a> = dyn FnMut(u64) -> Result<()> + 'a;

/// Adds up what was written, tells it to `progress`, and stops where that says so.
fn counted<'a>(
    out: &'a Path,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64) -> bool,
) -> impl FnMut(u64) -> Result<()> + 'a {
    let mut done = 0;
    move |bytes| {
        done += bytes;
        if progress(done, total) { Ok(()) } else { Err(Error::Stopped { path: out.to_path_buf() }) }
    }
}

fn fill_folder(
    source: &Files,
    folder: &Path,
    config: &Map<String, Value>,
    shards: &[Shard<'_>],
    converted: &Converted,
    told: &mut Told<'_>,
) -> Result<()> {
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| Error::io(&path, error))
    };
    put("config.json", &pretty(&Value::Object(config.clone())))?;
    copy_small_files(source, folder)?;
    put("README.md", CARD.as_bytes())?;
    let mut weight_map = BTreeMap::new();
    for (ix, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", ix + 1),
        };
        for tensor in shard.items.iter().flat_map(Item::tensors) {
            weight_map.insert(tensor.name, name.clone());
        }
        stream::write(&folder.join(name), shard, told)?;
    }
    let index = json!({
        "metadata": { "total_size": converted.n_bytes, "total_parameters": converted.n_parameters },
        "weight_map": weight_map,
    });
    put("model.safetensors.index.json", &pretty(&index))
}

fn copy_small_files(source: &Files, folder: &Path) -> Result<()> {
    let Some(source) = source.in_folder() else {
        for (name, bytes) in source.read_all()?.into_iter().filter(|(name, _)| name != "config.json") {
            std::fs::write(folder.join(&name), bytes).map_err(|error| Error::io(&folder.join(&name), error))?;
        }
        return Ok(());
    };
    for entry in std::fs::read_dir(source).map_err(|error| Error::io(source, error))? {
        let entry = entry.map_err(|error| Error::io(source, error))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let wanted = COPIED.contains(&name.as_str()) || name.ends_with(".py") || name.ends_with(".tiktoken");
        if wanted && entry.path().is_file() {
            // Bytes alone: a read-only source must not make a read-only copy.
            let bytes = std::fs::read(entry.path()).map_err(|error| Error::io(&entry.path(), error))?;
            std::fs::write(folder.join(&name), bytes).map_err(|error| Error::io(&folder.join(&name), error))?;
        }
    }
    Ok(())
}

/// The model card of a folder of unknown origin.
const CARD: &str = "---\nlanguage: en\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n---\n";

/// JSON as Python's `json.dump(indent=4)` lays it out.
fn pretty(value: &Value) -> Vec<u8> {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    value.serialize(&mut serializer).expect("a JSON value is written to memory");
    bytes
}

fn config_dtype(config: &Map<String, Value>) -> Option<StoredType> {
    let own = config.get("torch_dtype").filter(|dtype| !dtype.is_null());
    let named = own.or_else(|| config.get("text_config")?.get("dtype"))?;
    match named.as_str()? {
        "float16" => Some(StoredType::F16),
        "bfloat16" => Some(StoredType::Bf16),
        "float32" => Some(StoredType::F32),
        _ => None,
    }
}

/// What a module's object in the configuration says.
fn quant_object(quant: Quant) -> Value {
    json!({ "group_size": quant.group(), "bits": quant.bits(), "mode": quant.mode() })
}

/// Brings the configuration into agreement with what is written, keys sorted.
fn describe(
    config: &mut Map<String, Value>,
    spec: &ModelSpec,
    options: &ConvertOptions,
    new: &BTreeMap<String, Quant>,
    kept: &BTreeMap<String, Quant>,
) {
    config.remove("_name_or_path");
    config.remove("vision_config");
    let (own, other) = (config.remove("quantization"), config.remove("quantization_config"));
    // Another engine's settings are none of what is written.
    let mut quantization = own.or_else(|| other.filter(|object| object.get("quant_method").is_none()));
    if options.dequantize {
        quantization = None;
    }
    let mut named: Vec<(&String, &Quant)> = kept.iter().collect();
    let mut routers: Vec<&String> = Vec::new();
    if quantization.is_none()
        && let Some((_, default)) = named.first().copied()
    {
        quantization = Some(quant_object(*default));
        named.retain(|(_, quant)| *quant != default);
    }
    if let Some(recipe) = &options.quantize {
        let is_told = |quant: &Quant| quantization.is_some() || recipe.is_named(*quant);
        named.extend(new.iter().filter(|(_, quant)| is_told(quant)));
        let is_router = |(path, _): &(&String, &Quant)| is_router(spec, path);
        routers.extend(new.iter().filter(|named| recipe.is_uniform() && is_router(named)).map(|(path, _)| path));
        quantization = quantization.or_else(|| Some(quant_object(recipe.default())));
    }
    if let Some(mut quantization) = quantization {
        if let Value::Object(map) = &mut quantization {
            map.extend(named.into_iter().map(|(path, quant)| (path.clone(), quant_object(*quant))));
            // mlx-lm records for modules what it was asked for: null is the mode's own group.
            let is_open = options.quantize.as_ref().is_some_and(Recipe::leaves_group_open);
            for path in new.keys().filter(|_| is_open) {
                if let Some(object) = map.get_mut(path) {
                    object["group_size"] = Value::Null;
                }
            }
            // As mlx-lm tells of them: what is not said is affine.
            let object = || json!({ "group_size": ROUTER.group(), "bits": ROUTER.bits() });
            map.extend(routers.into_iter().map(|path| (path.clone(), object())));
        }
        config.insert("quantization".into(), quantization.clone());
        config.insert("quantization_config".into(), quantization);
    }
    config.sort_keys();
}

/// What becomes of a model's tensors.
struct Chosen<'a> {
    /// Every tensor in the graph's order.
    items: Vec<Item<'a>>,
    /// How modules are newly quantized.
    new: BTreeMap<String, Quant>,
    /// How modules are quantized that the source's configuration does not tell of: those of a GGUF file.
    kept: BTreeMap<String, Quant>,
}

/// A module as it is written, or a vector.
struct Module {
    /// Its path, or the vector's full name.
    name: String,
    /// What it is made of: single experts one below the other, else itself.
    tensors: Vec<String>,
    /// Experts of a stack.
    n_experts: Option<usize>,
}

/// What a weight of the graph as it is lowered is written as; `None` for an expert, which is written with its stack.
fn module(graph: &Graph, weight: &Weight) -> Option<Module> {
    let tensor = |id: &WeightId| match &graph.weights[*id].source {
        Source::Tensor(name) => Some(name.clone()),
        _ => None,
    };
    match &weight.source {
        Source::Tensor(name) if stack_path(name).is_some() => None,
        Source::Tensor(name) => {
            let reads = |op: &Op| match op {
                Op::MoeLinear { parts, n_experts, .. } => {
                    parts.iter().any(|part| graph.weights[*part] == *weight).then_some(*n_experts as usize)
                }
                _ => None,
            };
            let n_experts = graph.values.iter().find_map(|(_, value)| reads(&value.op));
            Some(Module { name: name.clone(), tensors: vec![name.clone()], n_experts })
        }
        Source::Stack(parts) => {
            let tensors: Vec<String> = parts.iter().filter_map(tensor).collect();
            let name = stack_path(tensors.first()?)?;
            Some(Module { name, n_experts: Some(tensors.len()), tensors })
        }
        _ => None,
    }
}

/// How mlx-lm quantizes the routers of some families, whatever the rest has.
const ROUTER: Quant = Quant::Affine(QuantShape { bits: 8, group: 64 });

/// Whether a module is a router that is quantized so.
fn is_router(spec: &ModelSpec, path: &str) -> bool {
    spec.architecture.has_fine_router() && path.ends_with("mlp.gate")
}

fn choose<'a>(model: &'a Model, options: &ConvertOptions, dtype: Option<StoredType>) -> Result<Chosen<'a>> {
    let (graph, weights) = (model.graph()?, model.weights());
    let mut seen = BTreeSet::new();
    let (mut items, mut new, mut kept) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for (_, weight) in graph.weights.iter() {
        let Some(Module { name, tensors, n_experts }) = module(&graph, weight) else { continue };
        if !seen.insert(name.clone()) {
            continue;
        }
        let kind = if weight.layout == Layout::Vector {
            let tensor = weights.vector(&name, weight.n_rows as usize)?;
            Kind::Vector { tensor, stored: dtype.unwrap_or(tensor.stored) }
        } else {
            let height = weight.n_rows as usize / tensors.len();
            let parts = tensors.iter().map(|path| weights.matrix(path, height, weight.n_cols as usize));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let matrix = parts[0];
            let as_stored = match matrix.format() {
                Format::F16 | Format::Affine { scales: ScaleType::F16, .. } => StoredType::F16,
                Format::F32 | Format::Affine { scales: ScaleType::F32, .. } => StoredType::F32,
                // What MLX makes of codes and scales that are small floats, too.
                _ => StoredType::Bf16,
            };
            let float = dtype.unwrap_or(as_stored);
            // GGUF's own blocks are none that MLX has.
            let stored = Quant::of_format(matrix.format());
            let is_kept = stored.is_some() && !options.dequantize;
            if options.repack && matrix.format().is_quantized() && stored.is_none() {
                let what = format!("is {}, of which MLX has no form that loses nothing", matrix.format());
                return Err(Error::tensor(model.checkpoint.place_of(&name), format!("{name}.weight"), what));
            }
            let wanted = match &options.quantize {
                Some(recipe) if !is_kept => match recipe.of(&name, weight.n_cols, model.spec.n_layers) {
                    Some(_) if recipe.is_uniform() && is_router(&model.spec, &name) => {
                        weight.n_cols.is_multiple_of(ROUTER.group()).then_some(ROUTER)
                    }
                    quant => quant,
                },
                _ => None,
            };
            let rows = Rows { parts, n_experts };
            match wanted {
                Some(quant) => {
                    new.insert(name.clone(), quant);
                    Kind::Quantize { matrix: rows, float, quant }
                }
                None if is_kept => {
                    // A folder's configuration tells already how these are quantized.
                    if model.spec.quantization.is_none() {
                        kept.extend(stored.map(|quant| (name.clone(), quant)));
                    }
                    Kind::Keep { matrix: rows, float }
                }
                None => Kind::Widen { matrix: rows, float },
            }
        };
        items.push(Item { path: name, kind });
    }
    Ok(Chosen { items, new, kept })
}

fn shards(items: Vec<Item<'_>>) -> Vec<Shard<'_>> {
    let mut shards: Vec<Shard<'_>> = Vec::new();
    for item in items {
        match shards.last_mut() {
            Some(shard) if shard.n_bytes() + item.n_bytes() <= MAX_FILE_BYTES => shard.items.push(item),
            _ => shards.push(Shard { items: vec![item] }),
        }
    }
    shards
}
