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

pub use cached::{CachedModel, CachedSnapshot, find, list, remove};
pub use error::HubError;
pub use id::ModelId;
pub use settings::{HubSettings, Token};

use cached::Snapshot;
use client::{Client, Listing, RemoteFile};
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
    /// The snapshot's folder, in the layout of a checkpoint.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// Why the hub could not be asked, if a copy that was there before is used instead.
    pub stale: Option<HubError>,
}

/// Brings a model's newest files of its revision into the cache: those that Ingot reads (`model*.safetensors`, `*.json`,
/// `*.jinja`), and of them those that are not there yet, over a few connections at one time, which share large files. `on_progress` stops the fetch by returning false;
/// what has arrived by then is kept. Offline, and where the hub cannot be reached, a copy in the cache serves.
///
/// # Errors
/// Each says what to do; see [`HubError`].
pub fn fetch(
    id: &ModelId,
    settings: &HubSettings,
    on_progress: &mut dyn FnMut(FetchProgress<'_>) -> bool,
) -> Result<Fetched, HubError> {
    let cached = Snapshot::of(id, settings).filter(Snapshot::is_whole);
    // A commit never changes.
    if let (Some(snapshot), true) = (&cached, id.is_commit()) {
        return Ok(snapshot.fetched(None));
    }
    if settings.offline {
        return match cached {
            Some(snapshot) => Ok(snapshot.fetched(None)),
            None => Err(HubError::NotCached { id: id.clone(), cache: settings.cache.clone() }),
        };
    }
    let client = Client::new(settings);
    let listing = match (client.listing(id), cached) {
        (Ok(listing), _) => listing,
        (Err(error), Some(snapshot)) if error.is_passing() => return Ok(snapshot.fetched(Some(error))),
        (Err(error), _) => return Err(error),
    };
    let snapshot = Snapshot::at(id, settings, &listing.commit);
    let missing = needed(id, &listing)?.map(|mut files| {
        files.retain(|file| !snapshot.has(&file.name));
        files
    });
    let download = Download { client: &client, id, snapshot: &snapshot };
    let mut sum = Sum::new(missing.iter().flatten().copied(), on_progress);
    for files in &missing {
        side_by_side::fetch(&download, files, &mut sum)?;
    }
    snapshot.name(id)?;
    Ok(snapshot.fetched(None))
}

/// The files that Ingot reads: the small ones, which come first, so that what is wrong with a model is known before its weights
/// are fetched, and the weights.
fn needed<'a>(id: &ModelId, listing: &'a Listing) -> Result<[Vec<&'a RemoteFile>; 2], HubError> {
    let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
    let is_small = |name: &str| name.ends_with(".json") || name.ends_with(".jinja");
    let names = || listing.files.iter().map(|file| file.name.as_str());
    let lacks = if !names().any(|name| name == "config.json") {
        Some("config.json")
    } else if !names().any(is_weights) {
        Some("model*.safetensors")
    } else {
        None
    };
    if let Some(lacks) = lacks {
        let ends = [".gguf", ".bin", ".pth", ".pt", ".safetensors", ".onnx", ".npz"];
        let found: Vec<&str> = names().filter(|name| ends.iter().any(|end| name.ends_with(end))).take(4).collect();
        return Err(HubError::NoCheckpoint { id: id.clone(), lacks, found: found.join(", ") });
    }
    let chosen = |small: bool| {
        let wanted = move |name: &str| if small { is_small(name) } else { is_weights(name) };
        // Folders inside a repository hold other forms of the model.
        listing.files.iter().filter(move |file| !file.name.contains(['/', '\\']) && wanted(&file.name)).collect()
    };
    Ok([chosen(true), chosen(false)])
}
