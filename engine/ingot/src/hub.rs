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
//! println!("{}", fetched.model.display());
//! for model in list(&settings)? {
//!     println!("{}", model.id);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::Error;
use ingot_ir::weight::Format;
use ingot_models::formats::checkpoint::Checkpoint;
use ingot_models::formats::gguf::is_gguf;
use std::path::{Path, PathBuf};

/// ```
/// use ingot::hub::{CachedModel, HubSettings, list};
///
#[doc = include_str!("../examples/hub_cache.txt")]
/// let CachedModel { id, n_bytes, snapshots, .. } = list(&settings)?.remove(0);
/// println!("{id}: {n_bytes} bytes");
/// assert_eq!((id.repo(), snapshots.len()), ("someone/tales", 1));
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::CachedModel;
/// ```
/// use ingot::hub::{CachedSnapshot, HubSettings, list};
///
#[doc = include_str!("../examples/hub_cache.txt")]
/// let snapshot: CachedSnapshot = list(&settings)?.remove(0).snapshots.remove(0);
/// assert_eq!(snapshot.names, ["main"]);
/// assert!(snapshot.files.iter().any(|(name, n_bytes)| name == "model.safetensors" && *n_bytes > 1_000_000));
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::CachedSnapshot;
/// ```no_run
/// use ingot::hub::{FetchProgress, HubSettings, fetch};
///
/// let show = &mut |FetchProgress { file, done_bytes, total_bytes }: FetchProgress<'_>| {
///     println!("{file}: {done_bytes} of {total_bytes} bytes of all files");
///     true
/// };
/// fetch(&"HuggingFaceTB/SmolLM2-135M-Instruct".parse()?, &HubSettings::from_env()?, show)?;
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::FetchProgress;
/// ```
/// use ingot::hub::{Fetched, HubSettings, fetch};
///
#[doc = include_str!("../examples/hub_cache.txt")]
/// let Fetched { folder, commit, stale, .. } = fetch(&"someone/tales".parse()?, &settings, &mut |_| true)?;
/// assert!(folder.ends_with(&commit) && stale.is_none());
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::Fetched;
/// ```
/// use ingot::hub::{HubError, ModelId};
///
/// let error: HubError = "not a name".parse::<ModelId>().unwrap_err();
/// assert!(error.to_string().contains("owner/name") && !error.is_passing());
/// ```
pub use ingot_models::hub::HubError;
/// ```
/// use ingot::hub::HubSettings;
///
/// let variables = |name: &str| match name {
///     "HF_HOME" => Some("/srv/hub".to_owned()),
///     "HF_HUB_OFFLINE" => Some("1".to_owned()),
///     _ => None,
/// };
/// let settings = HubSettings::from_variables(&variables)?;
/// assert!(settings.offline && settings.cache.ends_with("srv/hub/hub"));
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::HubSettings;
/// ```
/// use ingot::hub::ModelId;
///
/// let id: ModelId = "mlx-community/Llama-3.2-1B-Instruct-4bit@v1".parse()?;
/// assert_eq!((id.repo(), id.revision()), ("mlx-community/Llama-3.2-1B-Instruct-4bit", "v1"));
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::ModelId;
/// ```
/// use ingot::hub::Token;
///
/// let token = Token::new("hf_secret", "the vault");
/// assert_eq!(format!("{token:?}"), "Token(from the vault)");
/// ```
pub use ingot_models::hub::Token;
/// ```
/// use ingot::hub::{HubError, HubSettings, ModelId, fetch};
///
/// let id: ModelId = "someone/unknown".parse()?;
/// let nothing = HubSettings { cache: "no/such/folder".into(), offline: true, ..HubSettings::from_env()? };
/// assert!(matches!(fetch(&id, &nothing, &mut |_| true), Err(HubError::NotCached { .. })));
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::fetch;
/// ```
/// use ingot::hub::{HubSettings, find};
///
#[doc = include_str!("../examples/hub_cache.txt")]
/// assert_eq!(find(&"someone/tales".parse()?, &settings)?.snapshots[0].names, ["main"]);
/// assert!(find(&"someone/else".parse()?, &settings).is_err());
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::find;
/// ```
/// use ingot::hub::{HubSettings, judge, list};
///
#[doc = include_str!("../examples/hub_cache.txt")]
/// for model in list(&settings)? {
///     println!("{}: {:?}", model.id, judge(&model.snapshots[0].model(&model.id)).runs);
///     # assert!(judge(&model.snapshots[0].model(&model.id)).runs.is_ok());
/// }
/// # assert_eq!(list(&settings)?.len(), 1);
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::list;
/// ```
/// use ingot::hub::{HubSettings, list, remove};
///
#[doc = include_str!("../examples/hub_cache.txt")]
/// let n_bytes = remove(&"someone/tales".parse()?, &settings)?;
/// assert!(n_bytes > 1_000_000 && list(&settings)?.is_empty());
/// # Ok::<(), ingot::hub::HubError>(())
/// ```
pub use ingot_models::hub::remove;

/// The name on the hub that a path stands for, where nothing of that path exists: `owner/name`, `owner/name@revision`,
/// `owner/name:QUANT` or `owner/name:QUANT@revision`.
///
/// ```
/// use ingot::hub::id_of;
///
/// assert_eq!(id_of("HuggingFaceTB/SmolLM2-135M".as_ref()).unwrap().revision(), "main");
/// assert_eq!(id_of("../../models/ingot-tales-1m".as_ref()), None);
/// ```
pub fn id_of(path: &Path) -> Option<ModelId> {
    let is_file = path.extension().is_some_and(|end| end == "ingot" || end == "gguf");
    if is_file || path.exists() { None } else { path.to_str()?.parse().ok() }
}

/// The name that a path of a model has in every folder: a hub's as it is, others absolute.
pub(crate) fn name_of(path: &Path) -> PathBuf {
    match id_of(path) {
        Some(_) => path.to_owned(),
        None => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// The path of a model: as it is if it exists, else its folder or GGUF file in the hub's cache, into which it is fetched first.
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
    Ok(fetched.map_err(ingot_models::Error::from)?.model)
}

/// What a checkpoint folder, or a GGUF file, is to Ingot.
///
/// ```
/// use ingot::hub::Verdict;
///
/// let verdict: Verdict = ingot::hub::judge("../../models/ingot-tales-14m".as_ref());
/// assert_eq!(verdict, Verdict { format: "4-bit MLX".into(), runs: Ok("llama".into()) });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// How its weights are stored, e.g. `BF16`, `4-bit MLX` or `GGUF`; `unknown` if there are none that can be read.
    pub format: String,
    /// The architecture if Ingot runs it, else why it does not.
    pub runs: Result<String, String>,
}

/// Judges a checkpoint folder or a GGUF file by its headers; weights are not read. Of a model in the cache
/// [`CachedSnapshot::model`] tells which it is.
///
/// ```
/// use ingot::hub::judge;
///
/// assert_eq!(judge("../../models/ingot-tales-1m".as_ref()).format, "8-bit MLX");
/// assert!(judge("../../models".as_ref()).runs.is_err());
/// ```
pub fn judge(path: &Path) -> Verdict {
    let is_gguf = path.is_file() && is_gguf(path);
    let opened = ingot_models::Model::open(path).and_then(|model| Ok((model.graph()?, model)));
    match opened {
        Ok((_, model)) if is_gguf => {
            Verdict { format: "GGUF".into(), runs: Ok(model.spec.architecture.name().to_owned()) }
        }
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
            let folder = path.parent().filter(|folder| is_gguf && *folder != Path::new("")).unwrap_or(path);
            let format = match is_gguf {
                true => "GGUF".into(),
                false => Checkpoint::open(path).map_or_else(|_| others(path), |checkpoint| stored(&checkpoint)),
            };
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
