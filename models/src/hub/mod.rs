//! Models of a Hugging Face hub: found in the cache that all of its tools share, and fetched into it.
//!
//! The cache's layout is Hugging Face's own, so that what Python tools have fetched is found here, and the reverse:
//! `models--OWNER--NAME/` holds `blobs/` (contents, named by ETag), `snapshots/COMMIT/` (links to them by file name) and
//! `refs/` (the commit of each branch and tag). A download in progress is `blobs/ETAG.incomplete`; whoever comes next goes
//! on from its end.
//!
//! The crate `hf-hub` knows that layout and the hub's addresses. Its own downloads are not used: they append to a part
//! without asking whether the server kept to the range, do not see the header that tells a gated model from a missing
//! one, and fetch again what is there.

mod id;
mod settings;
mod error;
mod client;
mod part;
mod pieces;
mod download;
mod side_by_side;
mod cached;
mod needed;

pub use cached::{CachedModel, CachedSnapshot, find, list, remove};
pub use error::HubError;
pub use id::ModelId;
pub use settings::{HubSettings, Token};

use cached::Snapshot;
use client::Client;
use download::Download;
use side_by_side::Sum;
use std::path::PathBuf;

/// How far a fetch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchProgress<'a> {
    /// A file that is being fetched, of which there may be several.
    pub file: &'a str,
    /// Bytes of all files that are there.
    pub done_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// A model that lies in the cache.
#[derive(Debug)]
pub struct Fetched {
    /// The snapshot's folder: in the layout of a checkpoint, or with those GGUF files that were fetched.
    pub folder: PathBuf,
    /// What to open: that folder, or a GGUF file in it.
    pub model: PathBuf,
    /// The commit.
    pub commit: String,
    /// Why the hub could not be asked, if a copy that was there before is used instead.
    pub stale: Option<HubError>,
}

/// Brings a model's newest files of its revision into the cache: those that Ingot reads, and of them those that are not there
/// yet. They are `model*.safetensors`, `*.json` and `*.jinja`, or a GGUF file: the one that is named, and of a repository
/// without a checkpoint the one of `Q4_K_M`, else the first. They come over a few connections at one time, which share large
/// files. `on_progress` stops the fetch by returning false; what has arrived by then is kept. Offline, and where the hub
/// cannot be reached, a copy in the cache serves; where no file is named a checkpoint, the GGUF file of `Q4_K_M`, or the only
/// one that is there, since which one is the first the hub alone knows.
///
/// # Errors
/// Each says what to do; see [`HubError`].
pub fn fetch(
    id: &ModelId,
    settings: &HubSettings,
    on_progress: &mut dyn FnMut(FetchProgress<'_>) -> bool,
) -> Result<Fetched, HubError> {
    let here = Snapshot::of(id, settings);
    let cached = here.as_ref().and_then(|snapshot| Some((snapshot.model(id)?, snapshot)));
    // A commit never changes. Which of its GGUF files is meant, where none is named, depends on all that there are.
    let is_certain = |model: &PathBuf| id.quant().is_some() || model.is_dir();
    if let Some((model, snapshot)) = &cached
        && (settings.offline || id.is_commit() && is_certain(model))
    {
        return Ok(snapshot.fetched(model.clone(), None));
    }
    if settings.offline {
        let found = here.as_ref().map_or(String::new(), |snapshot| snapshot.ggufs().join(", "));
        return Err(HubError::NotCached { id: id.clone(), cache: settings.cache.clone(), found });
    }
    let client = Client::new(settings);
    let listing = match (client.listing(id), cached) {
        (Ok(listing), _) => listing,
        (Err(error), Some((model, snapshot))) if error.is_passing() => return Ok(snapshot.fetched(model, Some(error))),
        (Err(error), _) => return Err(error),
    };
    let snapshot = Snapshot::at(id, settings, &listing.commit);
    let needed = needed::of(id, &listing)?;
    let missing = needed.files.map(|mut files| {
        files.retain(|file| !snapshot.has(&file.name));
        files
    });
    let download = Download { client: &client, id, snapshot: &snapshot };
    let mut sum = Sum::new(missing.iter().flatten().copied(), on_progress);
    for files in &missing {
        side_by_side::fetch(&download, files, &mut sum)?;
    }
    snapshot.name(id)?;
    Ok(snapshot.fetched(snapshot.path(needed.model), None))
}
