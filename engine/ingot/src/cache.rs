//! What one run of a program keeps for the next: compiled plans and the driver's pipelines. Everything in it can be
//! made again, so that trouble with it never stops a load.

use crate::Error;
use crate::places::Place;
use ingot_compiler::artifact::{self, Artifact, WeightsOf, hash_bytes};
use ingot_compiler::{Options, TargetProfile};
use ingot_ir::graph::Graph;
use ingot_ir::plan::Plan;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where a load looks for what earlier loads left, and leaves what it made.
///
/// ```
/// use ingot::{Cache, DeviceChoice, LoadOptions, Model};
///
/// # let folder = tempfile::tempdir().unwrap();
/// let cache = Cache::Folder(folder.path().to_owned());
/// let options = LoadOptions { device: DeviceChoice::Cpu, cache: cache.clone(), ..LoadOptions::default() };
/// Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
/// assert_eq!(cache.entries()?.len(), 1);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cache {
    /// In the user's cache folder: `$INGOT_HOME/cache` if that is set, else the system's place for caches.
    #[default]
    User,
    /// In this folder.
    Folder(PathBuf),
    /// Nowhere.
    Off,
}

/// Plans and pipelines of more than this are removed, the oldest first.
const MAX_BYTES: u64 = 256 << 20;

/// A file of the cache.
///
/// ```
/// use ingot::{Cache, CacheEntry};
///
/// # use ingot::{DeviceChoice, LoadOptions, Model};
/// # let folder = tempfile::tempdir().unwrap();
/// # let cache = Cache::Folder(folder.path().to_owned());
/// # let options = LoadOptions { device: DeviceChoice::Cpu, cache: cache.clone(), ..LoadOptions::default() };
/// # Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
/// let CacheEntry { path, n_bytes, what, .. } = cache.entries()?.remove(0);
/// assert!(what.contains("for cpu, 1024 tokens"));
/// assert_eq!(n_bytes, std::fs::metadata(path).unwrap().len());
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheEntry {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub n_bytes: u64,
    /// When it was written.
    pub written: Option<SystemTime>,
    /// What it holds, e.g. a model's name and target.
    pub what: String,
}

impl Cache {
    /// The folder, whether it exists or not; `None` for [`Cache::Off`], and for [`Cache::User`] where no variable tells of a home.
    ///
    /// ```
    /// use ingot::Cache;
    ///
    /// assert_eq!(Cache::Folder("kept".into()).folder(), Some("kept".into()));
    /// assert_eq!(Cache::Off.folder(), None);
    /// ```
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Off => None,
            Self::Folder(folder) => Some(folder.clone()),
            Self::User => Place::Cache.folder(),
        }
    }

    /// Everything in it, in order of paths; nothing where there is no folder.
    ///
    /// ```
    /// # use ingot::{Cache, DeviceChoice, LoadOptions, Model};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let cache = Cache::Folder(folder.path().to_owned());
    /// # let options = LoadOptions { device: DeviceChoice::Cpu, cache: cache.clone(), ..LoadOptions::default() };
    /// # Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
    /// for entry in cache.entries()? {
    ///     println!("{}: {}, {} bytes", entry.path.display(), entry.what, entry.n_bytes);
    /// }
    /// # assert_eq!(cache.entries()?.len(), 1);
    /// assert!(Cache::Folder("no/such/folder".into()).entries()?.is_empty());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn entries(&self) -> Result<Vec<CacheEntry>, Error> {
        let Some(folder) = self.folder() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (kind, describe) in KINDS {
            let folder = folder.join(kind);
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(&folder, error)),
            };
            for entry in entries.flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                let path = entry.path();
                let what = describe(&path);
                found.push(CacheEntry { path, n_bytes: meta.len(), written: meta.modified().ok(), what });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Removes everything in it and gives the number of bytes.
    ///
    /// ```
    /// # use ingot::{Cache, DeviceChoice, LoadOptions, Model};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let cache = Cache::Folder(folder.path().to_owned());
    /// # let options = LoadOptions { device: DeviceChoice::Cpu, cache: cache.clone(), ..LoadOptions::default() };
    /// # Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
    /// let n_bytes: u64 = cache.entries()?.iter().map(|entry| entry.n_bytes).sum();
    /// assert_eq!(cache.clear()?, n_bytes);
    /// assert!(cache.entries()?.is_empty());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] with the file that cannot be removed.
    pub fn clear(&self) -> Result<u64, Error> {
        let mut n_bytes = 0;
        for entry in self.entries()? {
            std::fs::remove_file(&entry.path).map_err(|error| Error::io(&entry.path, error))?;
            n_bytes += entry.n_bytes;
        }
        Ok(n_bytes)
    }

    /// The plan of a graph, kept from before or compiled now; and whether its kernels are this compiler's own.
    pub(crate) fn plan(&self, graph: &Graph, target: &TargetProfile, options: Options) -> Result<(Plan, bool), Error> {
        let Some(folder) = self.folder() else {
            return Ok((ingot_compiler::compile(graph, target, options)?, true));
        };
        let key = hash_bytes(format!("{}\n{graph}\n{target:?}\n{options:?}", ingot_compiler::FINGERPRINT).as_bytes());
        let path = folder.join(PLANS).join(format!("{key}.ingot"));
        // A damaged or foreign file is as good as none: it is written again.
        if let Ok(kept) = Artifact::open(&path) {
            let trusted = kept.is_trusted();
            return Ok((kept.into_plan(), trusted));
        }
        let plan = ingot_compiler::compile(graph, target, options)?;
        let written = std::fs::create_dir_all(folder.join(PLANS)).is_ok()
            && artifact::write(&path, &plan, &[], &[], WeightsOf::Elsewhere, 1, &mut |_, _| {}).is_ok();
        if written {
            self.trim();
        }
        Ok((plan, true))
    }

    /// The pipelines that the driver of an adapter left; empty if there are none.
    pub(crate) fn pipelines(&self, adapter: &str) -> Vec<u8> {
        let read = || {
            let bytes = std::fs::read(self.pipelines_path(adapter)?).ok()?;
            let (hash, data) = bytes.split_first_chunk::<64>()?;
            // The driver trusts the data, so a damaged file must not reach it.
            (hash_bytes(data).as_bytes() == hash).then(|| data.to_vec())
        };
        read().unwrap_or_default()
    }

    /// Keeps the pipelines of an adapter's driver.
    pub(crate) fn keep_pipelines(&self, adapter: &str, data: &[u8]) {
        let Some(path) = self.pipelines_path(adapter) else { return };
        let Some(folder) = path.parent() else { return };
        let write = || -> std::io::Result<()> {
            use std::io::Write;
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::Builder::new().prefix(".ingot-").tempfile_in(folder)?;
            file.write_all(hash_bytes(data).as_bytes())?;
            file.write_all(data)?;
            file.persist(&path)?;
            Ok(())
        };
        if write().is_ok() {
            self.trim();
        }
    }

    fn pipelines_path(&self, adapter: &str) -> Option<PathBuf> {
        Some(self.folder()?.join(PIPELINES).join(format!("{}.bin", &hash_bytes(adapter.as_bytes())[..32])))
    }

    /// Removes the oldest files until the rest is small enough.
    fn trim(&self) {
        let Ok(mut entries) = self.entries() else { return };
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.written));
        let mut n_bytes = 0;
        for entry in entries {
            n_bytes += entry.n_bytes;
            if n_bytes > MAX_BYTES {
                // Another process may have been faster.
                let _ = std::fs::remove_file(&entry.path);
            }
        }
    }
}

const PLANS: &str = "plans";
const PIPELINES: &str = "pipelines";

/// The cache's folders, and how their files are described.
type Describe = fn(&Path) -> String;
const KINDS: [(&str, Describe); 2] = [(PLANS, describe_plan), (PIPELINES, |_| "the driver's pipelines".into())];

fn describe_plan(path: &Path) -> String {
    match Artifact::open(path) {
        Ok(kept) => {
            format!("plan of {} for {}, {} tokens", kept.plan().model, kept.plan().target, kept.plan().max_context)
        }
        Err(_) => "not readable by this version".into(),
    }
}
