//! Files of prompts that were read: the next program need not read them again.
//!
//! A safetensors file: `tokens`, and of each layer `layers.N.keys` and `layers.N.values`, `[head, position, number]`, as
//! numbers, with keys in the model's own order. So a file outlives layouts of pages and versions of the compiler. Metadata
//! names the model (`model`, as mlx-lm does, and a `fingerprint` of its weights), the type of the cache and what each layer
//! sees, and a file for another is refused.

use crate::weights::Weights;
use crate::{Error, GenerateOptions, Model};
use ingot_compiler::artifact;
use ingot_ir::kv::{KvLayerId, KvType};
use ingot_ir::plan::Plan;
use ingot_models::formats::safetensors::{self, Safetensors, StoredType, TensorDecl};
use ingot_runtime::{Kept, LayerKv, RuntimeError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Metadata of the files.
const KIND: &str = "ingot-prompt-cache";
const VERSION: &str = "2";

impl Model {
    /// Reads a prompt and writes its keys and values to a file.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("prompt.safetensors");
    /// let beginning = model.text_prompt("Once upon a time there was a dragon")?;
    /// model.save_prompt(&beginning, &path)?;
    /// assert_eq!(model.load_prompt(&path)?, beginning);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::generate`]; a model without a checkpoint; those of writing the file, which appears once it is whole.
    pub fn save_prompt(&mut self, prompt: &[u32], path: &Path) -> Result<(), Error> {
        let metadata = self.describes(path)?;
        self.generate(prompt, &GenerateOptions { max_tokens: 0, ..GenerateOptions::default() }, |_| true)?;
        let kept = self.world.keep(prompt).ok_or(Error::PromptGone)?;
        let written = self.write(&kept, &metadata, path);
        self.world.give_back(kept);
        written
    }

    fn write(&mut self, kept: &Kept, metadata: &BTreeMap<String, String>, path: &Path) -> Result<(), Error> {
        let tensors = declare(&self.world.plan, kept);
        let io = |error| Error::io(path, error);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(Error::io(folder, std::io::Error::other("no such folder; make it first")));
        }
        let file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
        let (mut layer, mut failed) = (LayerKv::default(), None::<RuntimeError>);
        safetensors::write(file.path(), metadata, &tensors, |ix, out| {
            // The first tensor is the text; each layer has keys, then values.
            let Some(ix) = ix.checked_sub(1) else {
                let bytes = kept.tokens().iter().flat_map(|id| id.to_le_bytes());
                out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte);
                return;
            };
            if ix % 2 == 0 && failed.is_none() {
                match self.world.read_kept(kept, KvLayerId((ix / 2) as u32)) {
                    Ok(found) => layer = found,
                    Err(error) => failed = Some(error),
                }
            }
            store(if ix % 2 == 0 { &layer.keys } else { &layer.values }, tensors[ix + 1].stored, out);
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        file.persist(path).map(drop).map_err(|error| io(error.error))
    }

    /// Brings the keys and values of a file into the cache, for prompts that begin as the file's does. Gives its tokens.
    ///
    /// ```
    /// use ingot::GenerateOptions;
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("prompt.safetensors");
    /// # model.save_prompt(&model.text_prompt("Once upon a time there was a dragon")?, &path)?;
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let mut prompt = model.load_prompt(&path)?;
    /// let n_kept = prompt.len();
    /// prompt.extend(model.tokenizer()?.encode(" who loved pizza.", false)?);
    /// let answer = model.generate(&prompt, &GenerateOptions::default(), |_| true)?;
    /// assert_eq!(answer.stats.n_cached, n_kept);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OtherPromptCache`] for a file of another model or cache, or no such file; [`Error::PromptGone`] if the cache
    /// has no room.
    pub fn load_prompt(&mut self, path: &Path) -> Result<Vec<u32>, Error> {
        let other = |why: String| Err(Error::OtherPromptCache { path: path.to_path_buf(), why });
        let file = open(path)?;
        let found = |key: &str| file.metadata().get(key).map_or("", String::as_str);
        for (key, expected) in self.describes(path)? {
            if found(&key) != expected {
                return other(match key.as_str() {
                    "fingerprint" => self.unlike(found("model")),
                    "kv_type" => format!(
                        "its cache is {} and this one {expected}; load with the same --kv-dtype or --kv-bits",
                        found(&key)
                    ),
                    "sees" => "its cache was limited otherwise; load with the same --max-kv-size".into(),
                    _ => continue,
                });
            }
        }
        let tokens = read_tokens(&file).filter(|tokens| tokens.iter().all(|id| *id < self.world.plan.n_vocab));
        let Some(tokens) = tokens else { return other("its tokens are damaged; write it again".into()) };
        if tokens.is_empty() {
            return other("it holds the keys and values of no token; write it again".into());
        }
        if tokens.len() >= self.world.plan.max_context as usize {
            let (n_prompt, max_context) = (tokens.len(), self.world.plan.max_context);
            return Err(RuntimeError::PromptTooLong { n_prompt, max_context }.into());
        }
        let kept = self.world.keep_anew(&tokens).ok_or(Error::PromptGone)?;
        for tensor in declare(&self.world.plan, &kept) {
            let fits =
                file.get(&tensor.name).is_some_and(|t| (t.stored, t.shape) == (tensor.stored, &tensor.shape[..]));
            if !fits {
                self.world.let_go(kept);
                return other(format!("tensor {} is missing or of another shape; write it again", tensor.name));
            }
        }
        for layer in self.world.plan.kv.layers.ids() {
            let numbers = |what: &str| file.get(&name(layer, what)).and_then(|tensor| tensor.to_f32s());
            let kv =
                LayerKv { keys: numbers("keys").unwrap_or_default(), values: numbers("values").unwrap_or_default() };
            if let Err(error) = self.world.write_kept(&kept, layer, &kv) {
                self.world.let_go(kept);
                return Err(error.into());
            }
        }
        self.world.give_back(kept);
        Ok(tokens)
    }

    /// What a file must say to be of this model and cache.
    fn describes(&self, path: &Path) -> Result<BTreeMap<String, String>, Error> {
        let plan = &self.world.plan;
        let Some(source) = &self.source else {
            let why = "a model of random weights has no prompts worth keeping".into();
            return Err(Error::OtherPromptCache { path: path.to_path_buf(), why });
        };
        let Some(fingerprint) = fingerprint(plan, source) else {
            let why =
                "the compiled file does not tell which model it is of; compile it again with `ingot compile`".into();
            return Err(Error::OtherPromptCache { path: path.to_path_buf(), why });
        };
        let sees = |layer: KvLayerId| {
            let window = plan.kv.groups[plan.kv.layers[layer].group].window;
            format!("{}+{}", window.window, window.keep)
        };
        let sees: Vec<String> = plan.kv.layers.ids().map(sees).collect();
        let pairs = [
            ("kind", KIND.to_owned()),
            ("version", VERSION.to_owned()),
            ("model", self.origin.as_deref().map_or(String::new(), |origin| origin.display().to_string())),
            ("fingerprint", fingerprint),
            ("kv_type", plan.kv_type.to_string()),
            ("sees", sees.join(",")),
        ];
        Ok(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// What is wrong with a file of `other` weights.
    fn unlike(&self, other: &str) -> String {
        let own = self.origin.as_deref().map_or_else(|| "this model".into(), |own| own.display().to_string());
        if own == other {
            return format!(
                "the weights of {own} were others when it was written; write it again with `ingot cache-prompt`"
            );
        }
        format!(
            "it is of another model, {other}, and this is {own}; load that one (--model {other}), or write it again"
        )
    }
}

/// The model that a file of [`Model::save_prompt`] was written with: what [`Model::origin`] was.
///
/// ```
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("prompt.safetensors");
/// # model.save_prompt(&model.text_prompt("Once upon a time there was a dragon")?, &path)?;
/// assert_eq!(Some(&*ingot::prompt_origin(&path)?), model.origin());
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// [`Error::OtherPromptCache`] if it is no such file.
pub fn prompt_origin(path: &Path) -> Result<PathBuf, Error> {
    Ok(open(path)?.metadata().get("model").map_or_else(PathBuf::new, PathBuf::from))
}

/// A file that [`Model::save_prompt`] of this version has written.
fn open(path: &Path) -> Result<Safetensors, Error> {
    let other = |why: &str| Error::OtherPromptCache { path: path.to_path_buf(), why: why.into() };
    if !path.exists() {
        return Err(other("no such file; `ingot cache-prompt` writes one"));
    }
    let file = Safetensors::open(path)?;
    let found = |key: &str| file.metadata().get(key).map_or("", String::as_str);
    if (found("kind"), found("version")) != (KIND, VERSION) {
        return Err(other("not a file that `ingot cache-prompt` of this version has written"));
    }
    Ok(file)
}

fn fingerprint(plan: &Plan, weights: &Weights) -> Option<String> {
    let kept = match weights {
        // Those of a GPU are in its layout, so the compiler left it there.
        Weights::Artifact(artifact) => artifact.manifest().fingerprint.clone(),
        _ => None,
    };
    kept.or_else(|| artifact::fingerprint(plan, &|name| weights.find(name)))
}

fn name(layer: KvLayerId, what: &str) -> String {
    format!("layers.{}.{what}", layer.0)
}

/// The tensors of a file.
fn declare(plan: &Plan, kept: &Kept) -> Vec<TensorDecl> {
    let stored = if plan.kv_type == KvType::F32 { StoredType::F32 } else { StoredType::F16 };
    let tokens = TensorDecl { name: "tokens".into(), stored: StoredType::U32, shape: vec![kept.tokens().len()] };
    let layers = plan.kv.layers.ids().flat_map(|layer| {
        let shape = plan.kv.shape(layer);
        let n_positions = kept.n_positions(plan.kv.layers[layer].group, plan.page_tokens);
        let tensor = move |what: &str, n: u32| TensorDecl {
            name: name(layer, what),
            stored,
            shape: vec![shape.n_kv_heads as usize, n_positions, n as usize],
        };
        [tensor("keys", shape.k_dim), tensor("values", shape.v_dim)]
    });
    std::iter::once(tokens).chain(layers).collect()
}

fn store(numbers: &[f32], stored: StoredType, out: &mut [u8]) {
    let width = stored.n_bytes();
    for (out, number) in out.chunks_exact_mut(width).zip(numbers) {
        match stored {
            StoredType::F16 => out.copy_from_slice(&half::f16::from_f32(*number).to_le_bytes()),
            _ => out.copy_from_slice(&number.to_le_bytes()),
        }
    }
}

fn read_tokens(file: &Safetensors) -> Option<Vec<u32>> {
    let tensor = file.get("tokens").filter(|tensor| tensor.stored == StoredType::U32)?;
    Some(tensor.bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
}
