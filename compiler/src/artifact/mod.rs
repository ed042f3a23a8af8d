//! The ahead-of-time artifact `.ingot`: one file that holds a compiled plan and, repacked for its target, the weights.
//!
//! It is a safetensors file, so that any tool opens it. In the order of the file:
//!
//! | part | type | what |
//! |---|---|---|
//! | header | JSON | metadata `kind`, `root`, `target`, `version`; padded so that data begins at a multiple of 16 KiB |
//! | `hashes` | U8 | the hash tree's leaves, 32 bytes each |
//! | `manifest.json` | U8 | a [`Manifest`] |
//! | `plan.json` | U8 | the plan's tables, without the kernels' text |
//! | `kernels/p3.wgsl` | U8 | a kernel's text |
//! | `files/tokenizer.json` | U8 | the checkpoint's small files, as they were |
//! | `pad/weights` | U8 | zeros up to a multiple of 16 KiB |
//! | `weights/b5` | U32, F32 | a weight as the kernels read it, at a multiple of 256 bytes |
//!
//! For the CPU, whose kernels read what a checkpoint stores, the weights are the checkpoint's tensors under their own
//! names. `pad/` tensors fill the gaps, since the format allows none.
//!
//! Every byte is under a hash tree (BLAKE3): leaf 0 is all before `hashes` with the 64 digits of `root` read as zeros,
//! leaf 1 is all from there to the weights, the others are 64 MiB of weights each. `root` is the hash of the leaves.
//! So what is needed to start is checked at once, and weights while they are uploaded.
//!
//! A file from a stranger is data: [`Artifact::open`] checks hashes, the plan's rules and every size before anything is
//! used, and [`Artifact::is_trusted`] tells whether the kernels are this compiler's own.

mod fingerprint;
mod hash;
mod read;
mod write;

pub use fingerprint::fingerprint;
pub use hash::{hash_bytes, hash_file};
pub use read::Artifact;
pub use write::{WeightsOf, write};

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Version of the file's form; readers refuse others. The plan's tables have [`ingot_ir::plan::PLAN_VERSION`].
pub const ARTIFACT_VERSION: u32 = 3;

/// The metadata's `kind`.
const KIND: &str = "ingot";

/// Data begins at a multiple of this, and so do weights: the largest page of a supported system.
const PAGE_BYTES: u64 = 16 << 10;

/// Weights begin at a multiple of this.
const ALIGN_BYTES: u64 = 256;

/// Bytes of weights under one hash.
const LEAF_BYTES: u64 = 64 << 20;

/// A longer header is refused.
const MAX_HEADER_BYTES: u64 = 8 << 20;

const HASHES: &str = "hashes";
const MANIFEST: &str = "manifest.json";
const PLAN: &str = "plan.json";
const PAD_WEIGHTS: &str = "pad/weights";

/// Where an artifact's weights are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsAt {
    /// In the artifact.
    Inside,
    /// In the files of [`Manifest::sources`].
    Sources,
    /// Nowhere that the artifact knows: a cached plan, or random weights.
    Elsewhere,
}

/// A file that a plan-only artifact takes its weights from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its absolute path when the plan was compiled.
    pub path: PathBuf,
    /// Its size in bytes.
    pub n_bytes: u64,
    /// BLAKE3 of its bytes in hexadecimal digits.
    pub blake3: String,
}

/// What an artifact says of itself beside the plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Who wrote it, e.g. `ingot 0.1.0`.
    pub generator: String,
    /// Where the weights are.
    pub weights: WeightsAt,
    /// Files of the weights, if they are not inside.
    pub sources: Vec<SourceFile>,
    /// [`fingerprint()`] of the weights, if they are inside.
    pub fingerprint: Option<String>,
    /// Ids that end a text by the model's configuration.
    pub eos_ids: Vec<u32>,
}

/// What is wrong with an artifact, or with writing one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another kind of file.
    #[error("{}: not an Ingot artifact ({why}); make one with `ingot compile MODEL -o FILE.ingot`", path.display())]
    NotArtifact {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// Bytes are missing or were added.
    #[error("{}: {why}; copy the file again, or compile the model again with `ingot compile`", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Sizes found and expected.
        why: String,
    },
    /// Bytes are not those that were written.
    #[error("{}: {part} is damaged: its hash is another; copy the file again, or compile the model again with `ingot compile`", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which part.
        part: String,
    },
    /// Written by another version.
    #[error("{}: {what} has version {found}, this program reads version {known}; compile the model again with `ingot compile`", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What has a version.
        what: &'static str,
        /// The version found.
        found: String,
        /// The version known.
        known: u32,
    },
    /// Hashes are right, content is not: written by a faulty or malicious program.
    #[error("{}: {what}; compile the model again with `ingot compile`", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What breaks which rule.
        what: String,
    },
    /// A weight file of a plan-only artifact is not there or not the same.
    #[error("{}: its weights are in {}, which {why}; put the file back, or compile the model again with `ingot compile`", path.display(), source_file.display())]
    Source {
        /// The artifact.
        path: PathBuf,
        /// The weight file.
        source_file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl ArtifactError {
    fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path: path.clone(), source }
    }
}
