//! Where a model is: a path, or a name on a hub; and what the hub's cache holds, seen with Ingot's eyes.
//!
//! ```no_run
//! use ingot::hub::{HubSettings, ModelId, fetch, list};
//!
//! let settings = HubSettings::from_env()?;
//! let id: ModelId = "HuggingFaceTB/SmolLM2-135M-Instruct".parse()?;
//! let fetched = fetch(&id, &settings, &mut |now| {
//!     println!("{}: {} of {} bytes of all", now.file, now.done_bytes, now.total_bytes);
//!     true
//! })?;
//! println!("{}", fetched.folder.display());
//! for model in list(&settings)? {
//!     println!("{}", model.id);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::Error;
use ingot_ir::weight::Format;
use ingot_models::formats::checkpoint::Checkpoint;
use std::path::{Path, PathBuf};

pub use ingot_models::hub::*;

/// The name on the hub that a path stands for: `owner/name` or `owner/name@revision`, where nothing of that path exists.
pub fn id_of(path: &Path) -> Option<ModelId> {
    let is_file = path.extension().is_some_and(|end| end == "ingot" || end == "gguf");
    if is_file || path.exists() { None } else { path.to_str()?.parse().ok() }
}

/// The path of a model: as it is if it exists, else the folder in the hub's cache, into which the model is fetched first.
pub(crate) fn locate(
    path: &Path,
    settings: Option<&HubSettings>,
    progress: Option<&mut crate::Progress>,
) -> Result<PathBuf, Error> {
    let Some(id) = id_of(path) else { return Ok(path.to_owned()) };
    let from_env;
    let settings = match settings {
        Some(settings) => settings,
        None => {
            from_env = HubSettings::from_env().map_err(ingot_models::Error::from)?;
            &from_env
        }
    };
    let mut none: crate::Progress = Box::new(|_, _| {});
    let progress = progress.unwrap_or(&mut none);
    let fetched = fetch(&id, settings, &mut |now| {
        progress(now.done_bytes, now.total_bytes);
        true
    });
    Ok(fetched.map_err(ingot_models::Error::from)?.folder)
}

/// What a checkpoint folder is to Ingot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// How its weights are stored, e.g. `BF16`, or `4-bit MLX`; `unknown` if there are none that can be read.
    pub format: String,
    /// The architecture if Ingot runs it, else why it does not.
    pub runs: Result<String, String>,
}

/// Judges a checkpoint folder by its headers; weights are not read.
///
/// ```
/// let folder = std::path::Path::new("../../models/ingot-tales-1m");
/// assert_eq!(ingot::hub::id_of(folder), None, "it exists");
/// let verdict = ingot::hub::judge(folder);
/// println!("{}, {}", verdict.format, verdict.runs.unwrap());
/// ```
pub fn judge(folder: &Path) -> Verdict {
    let opened = ingot_models::Model::open(folder).and_then(|model| Ok((model.graph()?, model)));
    match opened {
        Ok((graph, model)) => {
            let quantized = graph.weights.iter().find_map(|(_, weight)| match weight.format {
                Format::Affine { bits, .. } => {
                    Some(format!("{bits}-bit {}", model.spec.packer.map_or("MLX", |packer| packer.name())))
                }
                other => other.is_quantized().then(|| format!("{other} MLX")),
            });
            let format = quantized.unwrap_or_else(|| stored(&model.checkpoint));
            Verdict { format, runs: Ok(model.spec.architecture.name().to_owned()) }
        }
        Err(error) => {
            let format = Checkpoint::open(folder).map_or_else(|_| others(folder), |checkpoint| stored(&checkpoint));
            // The folder is known; what is wrong with it matters.
            let why = error.to_string().replace(&format!("{}/", folder.display()), "");
            Verdict { format, runs: Err(why.replace(&format!("{}: ", folder.display()), "")) }
        }
    }
}

/// The type of most of the bytes.
fn stored(checkpoint: &Checkpoint) -> String {
    let mut bytes = std::collections::BTreeMap::new();
    for tensor in checkpoint.files().iter().flat_map(|file| file.tensors()) {
        *bytes.entry(tensor.stored.name()).or_insert(0) += tensor.bytes.len();
    }
    bytes.into_iter().max_by_key(|(_, n)| *n).map_or("unknown", |(name, _)| name).to_owned()
}

/// Weights in forms that are not read.
fn others(folder: &Path) -> String {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut ends: Vec<String> =
        names.filter_map(|path| Some(path.extension()?.to_str()?.to_ascii_lowercase())).collect();
    ends.sort();
    let known = [("gguf", "GGUF"), ("bin", "PyTorch"), ("pth", "PyTorch"), ("pt", "PyTorch"), ("npz", "NumPy")];
    let found = known.iter().find(|(end, _)| ends.iter().any(|found| found == end));
    found.map_or("unknown", |(_, name)| name).to_owned()
}
