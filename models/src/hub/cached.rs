//! The hub's cache on this machine: what is in it, and how it is changed.

use super::id::is_commit;
use super::{Fetched, HubError, HubSettings, ModelId, needed};
use hf_hub::{Cache, CacheRepo};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A model in the cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CachedModel {
    /// What [`find`] was asked for; of a [`list`] `owner/name`.
    pub id: ModelId,
    /// Its folder in the cache.
    pub folder: PathBuf,
    /// Bytes of all its files, parts of files included.
    pub n_bytes: u64,
    /// Its revisions in order of their commits.
    pub snapshots: Vec<CachedSnapshot>,
}

/// A revision of a model in the cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CachedSnapshot {
    /// The commit.
    pub commit: String,
    /// Branches and tags that stand for it, sorted.
    pub names: Vec<String>,
    /// The folder in the layout of a checkpoint.
    pub folder: PathBuf,
    /// Names and sizes of its files, sorted.
    pub files: Vec<(String, u64)>,
}

impl CachedSnapshot {
    /// Bytes of all its files.
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().map(|(_, n_bytes)| n_bytes).sum()
    }

    /// What a run with this name opens of it: the GGUF file that the name means, else the folder.
    pub fn model(&self, id: &ModelId) -> PathBuf {
        model_in(&self.folder, id.quant()).unwrap_or_else(|| self.folder.clone())
    }

    /// The GGUF file that a name means, if it means one.
    fn gguf(&self, id: &ModelId) -> Option<&str> {
        id.quant().and_then(|quant| needed::gguf(Some(quant), self.files.iter().map(|(name, _)| name.as_str())))
    }
}

/// All models in a cache, in order of their names. A cache that does not exist is empty.
///
/// # Errors
/// If a folder cannot be read.
pub fn list(settings: &HubSettings) -> Result<Vec<CachedModel>, HubError> {
    let mut models = Vec::new();
    for folder in entries(&settings.cache)? {
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.and_then(|name| name.strip_prefix("models--")).unwrap_or("");
        // What has no owner, or is no folder of a hub's tool, is not ours to list.
        if let Ok(id) = name.replace("--", "/").parse() {
            models.push(read(id, folder)?);
        }
    }
    models.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(models)
}

/// A model in the cache. Of a GGUF file's name those revisions that have it.
///
/// # Errors
/// If it is not there, or cannot be read.
pub fn find(id: &ModelId, settings: &HubSettings) -> Result<CachedModel, HubError> {
    let absent = || HubError::NotListed { id: id.clone(), cache: settings.cache.clone() };
    let folder = settings.cache.join(id.hf().folder_name());
    if !folder.is_dir() {
        return Err(absent());
    }
    let mut model = read(id.clone(), folder)?;
    if id.has_revision() {
        let revision = id.revision();
        model.snapshots.retain(|of| of.commit == revision || of.names.iter().any(|name| name == revision));
    }
    if id.quant().is_some() {
        model.snapshots.retain(|of| of.gguf(id).is_some());
    }
    let is_absent = (id.has_revision() || id.quant().is_some()) && model.snapshots.is_empty();
    if is_absent { Err(absent()) } else { Ok(model) }
}

/// What can be opened of a snapshot's folder: the folder if there are configuration, weights, and all the files that an index
/// names; or a GGUF file in it. A quantization that is named is that of a GGUF file.
fn model_in(folder: &Path, quant: Option<&str>) -> Option<PathBuf> {
    let is_whole = || folder.join("config.json").is_file() && crate::formats::checkpoint::has_all_weights(folder);
    if quant.is_none() && is_whole() {
        return Some(folder.to_path_buf());
    }
    needed::gguf(quant, file_names(folder).iter().map(String::as_str)).map(|name| folder.join(name))
}

/// Removes a model from the cache; if a revision is named that one alone, and of a GGUF file's name that file, with the
/// contents that no other one has. Parts of files stay where a GGUF file is named, since they are of other ones. Gives the
/// bytes that became free.
///
/// # Errors
/// If it is not there, or cannot be removed.
pub fn remove(id: &ModelId, settings: &HubSettings) -> Result<u64, HubError> {
    let model = find(id, settings)?;
    let all = read(id.clone(), model.folder.clone())?;
    let goes_whole = |of: &CachedSnapshot| of.gguf(id).is_none() || of.files.len() == 1;
    let blobs = entries(&model.folder.join("blobs"))?;
    let stays = |blob: &Path| id.quant().is_some() && blob.extension().is_some_and(|end| end == "incomplete");
    let has_others = model.snapshots.len() < all.snapshots.len() || blobs.iter().any(|blob| stays(blob));
    if !has_others && model.snapshots.iter().all(goes_whole) {
        remove_all(&model.folder)?;
        remove_all(&settings.cache.join(".locks").join(id.hf().folder_name()))?;
        return Ok(all.n_bytes);
    }
    for snapshot in &model.snapshots {
        if let Some(name) = snapshot.gguf(id).filter(|_| !goes_whole(snapshot)) {
            let path = snapshot.folder.join(name);
            fs::remove_file(&path).map_err(|error| HubError::io(&path, error))?;
            continue;
        }
        remove_all(&snapshot.folder)?;
        for name in &snapshot.names {
            let path = model.folder.join("refs").join(name);
            fs::remove_file(&path).map_err(|error| HubError::io(&path, error))?;
        }
    }
    let mut used = BTreeSet::new();
    for snapshot in &read(id.clone(), model.folder.clone())?.snapshots {
        for (name, _) in &snapshot.files {
            used.extend(fs::canonicalize(snapshot.folder.join(name)).ok());
        }
    }
    for blob in blobs.iter().filter(|blob| !stays(blob)) {
        if fs::canonicalize(blob).is_ok_and(|path| !used.contains(&path)) {
            fs::remove_file(blob).map_err(|error| HubError::io(blob, error))?;
        }
    }
    // Another process may be fetching meanwhile.
    Ok(all.n_bytes.saturating_sub(read(id.clone(), model.folder)?.n_bytes))
}

/// A revision's place in the cache, whether it is there or not.
pub(super) struct Snapshot {
    cache: PathBuf,
    repo: CacheRepo,
    folder_name: String,
    commit: String,
}

impl Snapshot {
    /// The one that the revision stood for when the hub was last asked.
    pub(super) fn of(id: &ModelId, settings: &HubSettings) -> Option<Self> {
        if id.is_commit() {
            return Some(Self::at(id, settings, id.revision()));
        }
        let path = settings.cache.join(id.hf().folder_name()).join("refs").join(id.revision());
        let commit = fs::read_to_string(path).ok()?;
        is_commit(commit.trim()).then(|| Self::at(id, settings, commit.trim()))
    }

    /// The one of a commit.
    pub(super) fn at(id: &ModelId, settings: &HubSettings, commit: &str) -> Self {
        let (cache, folder_name) = (settings.cache.clone(), id.hf().folder_name());
        let repo = Cache::new(cache.clone()).repo(id.hf());
        Self { cache, repo, folder_name, commit: commit.to_owned() }
    }

    pub(super) fn commit(&self) -> &str {
        &self.commit
    }
    fn folder(&self) -> PathBuf {
        self.repo.pointer_path(&self.commit)
    }
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.repo.blob_path(etag)
    }
    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.cache.join(".locks").join(&self.folder_name).join(format!("{etag}.lock"))
    }
    pub(super) fn has(&self, name: &str) -> bool {
        self.folder().join(name).is_file()
    }
    pub(super) fn fetched(&self, model: PathBuf, stale: Option<HubError>) -> Fetched {
        Fetched { folder: self.folder(), model, commit: self.commit.clone(), stale }
    }

    /// A file in its folder, or the folder.
    pub(super) fn path(&self, name: Option<&str>) -> PathBuf {
        name.map_or_else(|| self.folder(), |name| self.folder().join(name))
    }

    /// What the hub would have opened of it: a checkpoint, or a GGUF file. If none is named it has to be the usual one, or the
    /// only one that is here, so that a command that ran with the hub runs without it; which of several is a repository's
    /// first cannot be told.
    pub(super) fn model(&self, id: &ModelId) -> Option<PathBuf> {
        let model = model_in(&self.folder(), id.quant())?;
        let is_usual = || model.file_name().and_then(|name| name.to_str()).is_some_and(needed::is_usual);
        let is_only = || self.ggufs().len() == 1;
        (id.quant().is_some() || model.is_dir() || is_usual() || is_only()).then_some(model)
    }

    /// The GGUF files that can be opened.
    pub(super) fn ggufs(&self) -> Vec<String> {
        file_names(&self.folder()).into_iter().filter(|name| needed::is_gguf(name)).collect()
    }

    /// Gives a content its name in the snapshot: by a link, or where there are none by a copy.
    pub(super) fn link(&self, blob: &Path, name: &str) -> Result<(), HubError> {
        let path = self.folder().join(name);
        create_parent(&path)?;
        if path.is_file() {
            // Another process has come first.
            return Ok(());
        }
        if path.symlink_metadata().is_ok() {
            // It leads nowhere: what is there is not linked again.
            fs::remove_file(&path).map_err(|error| HubError::io(&path, error))?;
        }
        let content = blob.file_name().map(|name| Path::new("../../blobs").join(name));
        let content = content.unwrap_or_else(|| blob.to_path_buf());
        // A copy takes its name when it is whole: a name that is there is not looked at again.
        let copy = || {
            let part = path.with_added_extension("incomplete");
            fs::copy(blob, &part).and_then(|_| fs::rename(&part, &path))
        };
        symlink(&content, &path).or_else(|_| copy()).map_err(|error| HubError::io(&path, error))
    }

    /// Lets the revision's name stand for this commit.
    pub(super) fn name(&self, id: &ModelId) -> Result<(), HubError> {
        if id.is_commit() {
            return Ok(());
        }
        let path = self.cache.join(&self.folder_name).join("refs").join(id.revision());
        self.repo.create_ref(&self.commit).map_err(|error| HubError::io(&path, error))
    }
}

#[cfg(unix)]
fn symlink(content: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(content, path)
}
#[cfg(windows)]
fn symlink(content: &Path, path: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(content, path)
}
#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

pub(super) fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|error| HubError::io(parent, error))
}

fn read(id: ModelId, folder: PathBuf) -> Result<CachedModel, HubError> {
    let mut names = Vec::new();
    for path in files(&folder.join("refs"))? {
        let commit = fs::read_to_string(&path).map_err(|error| HubError::io(&path, error))?;
        let name = path.strip_prefix(folder.join("refs")).unwrap_or(&path);
        names.push((commit.trim().to_owned(), name.to_string_lossy().replace('\\', "/")));
    }
    names.sort();
    let mut snapshots = Vec::new();
    for path in entries(&folder.join("snapshots"))? {
        let Some(commit) = path.file_name().and_then(|name| name.to_str()).filter(|name| is_commit(name)) else {
            continue;
        };
        let of = names.iter().filter(|(known, _)| known == commit).map(|(_, name)| name.clone());
        let mut found = Vec::new();
        for file in files(&path)? {
            // A link that leads nowhere has no size.
            let n_bytes = fs::metadata(&file).map_or(0, |meta| meta.len());
            let name = file.strip_prefix(&path).unwrap_or(&file);
            found.push((name.to_string_lossy().replace('\\', "/"), n_bytes));
        }
        found.sort();
        let (commit, names) = (commit.to_owned(), of.collect());
        snapshots.push(CachedSnapshot { commit, names, folder: path, files: found });
    }
    snapshots.sort_by(|a, b| a.commit.cmp(&b.commit));
    let mut n_bytes = 0;
    for path in files(&folder)? {
        n_bytes += path.symlink_metadata().map_or(0, |meta| if meta.is_symlink() { 0 } else { meta.len() });
    }
    Ok(CachedModel { id, folder, n_bytes, snapshots })
}

/// Names of the files in a folder, sorted. Links that lead nowhere are none.
fn file_names(folder: &Path) -> Vec<String> {
    let paths = entries(folder).unwrap_or_default().into_iter().filter(|path| path.is_file());
    let mut names: Vec<String> = paths.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

/// What a folder holds; nothing if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|error| HubError::io(folder, error))?,
    };
    read.map(|entry| entry.map(|entry| entry.path()).map_err(|error| HubError::io(folder, error))).collect()
}

/// All files below a folder. Links are files, wherever they lead.
fn files(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in entries(&folder)? {
            let is_folder = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
            if is_folder { &mut folders } else { &mut found }.push(path);
        }
    }
    Ok(found)
}

fn remove_all(folder: &Path) -> Result<(), HubError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(HubError::io(folder, error)),
        _ => Ok(()),
    }
}
