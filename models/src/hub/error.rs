//! What can go wrong between the hub and its cache. Each message says what to do.

use super::ModelId;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Why a model could not be fetched, found or removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// No name of a model.
    #[error("`{found}` is no name of a model on the hub; write owner/name[:QUANT][@revision]")]
    BadId {
        /// What was given.
        found: String,
    },
    /// Nothing tells where the cache is.
    #[error("there is no home folder for the hub's cache; set HF_HOME or HF_HUB_CACHE")]
    NoHome,
    /// The hub knows no such model, or does not show it.
    #[error(
        "{id}: {endpoint} has no such model; check its name{}",
        if *has_token { ", and that the account of your token may see it if it is private" }
        else { ", and set HF_TOKEN or run `hf auth login` if it is private" }
    )]
    NotFound {
        /// The model.
        id: ModelId,
        /// The hub.
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The model has no such branch, tag or commit.
    #[error("{id}: the model has no revision `{}`; see its branches and tags at {endpoint}/{}", id.revision(), id.repo())]
    NoRevision {
        /// The model.
        id: ModelId,
        /// The hub.
        endpoint: String,
    },
    /// The model is shown to those alone who accept its terms.
    #[error(
        "{id}: access is gated; accept the terms at {endpoint}/{}{}",
        id.repo(),
        if *has_token { " with the account of your token, and wait until access is granted" }
        else { ", then set HF_TOKEN or run `hf auth login`" }
    )]
    Gated {
        /// The model.
        id: ModelId,
        /// The hub.
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The token is not known to the hub.
    #[error(
        "the hub refuses the token from {origin}; make a new one at {endpoint}/settings/tokens, or remove it for public models"
    )]
    BadToken {
        /// Where the token came from.
        origin: String,
        /// The hub.
        endpoint: String,
    },
    /// The token does not allow this.
    #[error("{id}: the hub denies access ({why}); use a token that may read this model (HF_TOKEN)")]
    Forbidden {
        /// The model.
        id: ModelId,
        /// What the hub said.
        why: String,
    },
    /// Too many requests.
    #[error(
        "the hub asks for fewer requests; try again {}{}",
        retry_after.map_or("in some minutes".into(), |wait| format!("in {} s", wait.as_secs())),
        if *has_token { "" } else { ", or set HF_TOKEN: with a token more are allowed" }
    )]
    RateLimited {
        /// How long to wait, where the hub says it.
        retry_after: Option<Duration>,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The hub has trouble of its own.
    #[error("{url}: the hub answers with status {status}; try again later")]
    Server {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that is none of a hub.
    #[error("{url}: {what}; check HF_ENDPOINT")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// The hub cannot be reached.
    #[error(
        "{endpoint} cannot be reached ({why}); check the network and proxy settings, or name a model that is in the cache \
         (`ingot models list`)"
    )]
    NoNetwork {
        /// The hub.
        endpoint: String,
        /// The system's reason.
        why: String,
    },
    /// The connection ended before the file.
    #[error(
        "{file}: the connection ended after {done} of {total} bytes ({why}); run the same command again to go on from there"
    )]
    Cut {
        /// The file.
        file: String,
        /// Bytes that are there.
        done: u64,
        /// Bytes of the file.
        total: u64,
        /// The system's reason.
        why: String,
    },
    /// The system starts no thread.
    #[error(
        "the system starts no thread to fetch with ({source}); end other programs or raise its limit (`ulimit -u`), then run \
         the same command again"
    )]
    NoThread {
        /// The system's reason.
        source: std::io::Error,
    },
    /// Whoever asked did not want to wait.
    #[error("{file}: stopped; what has arrived is kept, run the same command again to go on from there")]
    Stopped {
        /// The file.
        file: String,
    },
    /// A file that is not what the hub promised.
    #[error("{file}: the hash of what arrived is not the hub's; it was removed, run the same command again")]
    Damaged {
        /// The file.
        file: String,
    },
    /// Parts of a file that do not belong to one content.
    #[error(
        "{file}: the hub's answers are parts of different files, perhaps since it has changed; run the same command again"
    )]
    Changed {
        /// The file.
        file: String,
    },
    /// No room.
    #[error(
        "{}: the disk is full, and {file} needs {needed} more bytes; make room (`ingot models rm`) or set HF_HUB_CACHE to a \
         folder on another disk, then run the same command again",
        cache.display()
    )]
    DiskFull {
        /// The cache.
        cache: PathBuf,
        /// The file.
        file: String,
        /// Bytes that are missing.
        needed: u64,
    },
    /// The system refused to read or write the cache.
    #[error("{}: {source}; check the folder's permissions, or set HF_HUB_CACHE to another one", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Offline, and not in the cache.
    #[error(
        "{id} is not in the cache {}, or not all of it; run the command once without --offline and HF_HUB_OFFLINE{}",
        cache.display(),
        if found.is_empty() { String::new() }
        else { format!(", or name a GGUF file that is there ({found}) as {}:QUANT", id.repo()) }
    )]
    NotCached {
        /// The model.
        id: ModelId,
        /// The cache.
        cache: PathBuf,
        /// GGUF files of it that are there.
        found: String,
    },
    /// A model that is not in the cache cannot be shown or removed.
    #[error("{id} is not in the cache {}; `ingot models list` tells what is", cache.display())]
    NotListed {
        /// The model.
        id: ModelId,
        /// The cache.
        cache: PathBuf,
    },
    /// A repository without the GGUF file that was named, or with no such file that is whole.
    #[error(
        "{}: this repository has no GGUF file {} in one part and outside folders{}",
        id.repo(),
        id.quant().unwrap_or_default(),
        if found.is_empty() { String::new() } else { format!("; choose one of {found}") }
    )]
    NoQuant {
        /// The model.
        id: ModelId,
        /// The GGUF files that can be fetched.
        found: String,
    },
    /// A repository without the files of a checkpoint.
    #[error(
        "{id}: this repository has no {lacks}{}; choose one with config.json and safetensors, or with a GGUF file in one part",
        if found.is_empty() { String::new() } else { format!(" (it has {found})") }
    )]
    NoCheckpoint {
        /// The model.
        id: ModelId,
        /// What it lacks.
        lacks: &'static str,
        /// Weights in other forms.
        found: String,
    },
}

impl HubError {
    pub(super) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    /// Whether it may be gone at the next try.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::Server { status: 500.., .. }
                | Self::NoNetwork { .. }
                | Self::Cut { .. }
                | Self::Damaged { .. }
                | Self::Changed { .. }
        )
    }
}
