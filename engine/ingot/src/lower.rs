//! A model before compilation: its graph, and where everything else of it is.

use crate::Error;
use crate::random::{RandomShape, RandomWeights};
use crate::weights::Weights;
use ingot_compiler::artifact::{SourceFile, hash_file};
use ingot_compiler::pass::limit_kv;
use ingot_ir::graph::Graph;
use ingot_models::Files;
use std::path::{Path, PathBuf};

/// Longest sequence unless told otherwise.
const DEFAULT_CONTEXT: u32 = 8192;

/// The same where the cache is limited, so that a longer sequence takes no more of it: a page table's entries alone.
const LIMITED_CONTEXT: u32 = 1 << 17;
/// Longest sequence then.
const MAX_LIMITED_CONTEXT: u32 = 1 << 20;

/// The longest sequence that a model is loaded or compiled for unless told otherwise, in tokens. `max_positions` are the
/// model's; `is_limited` tells whether its cache holds the first and the newest of them alone.
///
/// ```
/// assert_eq!([2048, 131_072].map(|positions| ingot::default_context(positions, false)), [2048, 8192]);
/// assert_eq!(ingot::default_context(2048, true), 131_072);
/// ```
pub fn default_context(max_positions: u32, is_limited: bool) -> u32 {
    if is_limited { LIMITED_CONTEXT } else { max_positions.min(DEFAULT_CONTEXT) }
}

/// Smallest limit of the cache.
const LEAST_KV_SIZE: u32 = 8;

/// A model, lowered to its graph. Nothing but headers has been read.
pub(crate) struct Lowered {
    pub graph: Graph,
    pub weights: Weights,
    /// Configuration, tokenizer and chat template; `None` for a model of random weights.
    pub files: Option<Files>,
    /// Ids that end a text.
    pub eos_ids: Vec<u32>,
    /// Longest sequence that the model was made for.
    pub max_positions: u32,
    /// Whether the cache holds less than a sequence, so that sequences may go on past what the model was made for.
    is_limited: bool,
}

impl Lowered {
    /// A checkpoint: a folder in Hugging Face or MLX layout, or a GGUF file.
    pub(crate) fn checkpoint(path: &Path) -> Result<Self, Error> {
        Self::opened(ingot_models::Model::open(path)?)
    }

    /// The same, opened.
    pub(crate) fn opened(opened: ingot_models::Model) -> Result<Self, Error> {
        let graph = opened.graph()?;
        let (eos_ids, max_positions) = (opened.spec.eos_ids, opened.spec.max_position_embeddings);
        let (weights, files) = (Weights::of_checkpoint(opened.checkpoint), Some(opened.files));
        Ok(Self { graph, weights, files, eos_ids, max_positions, is_limited: false })
    }

    /// A model without text side.
    pub(crate) fn new(graph: Graph, weights: Weights, eos_ids: Vec<u32>, max_positions: u32) -> Self {
        Self { graph, weights, files: None, eos_ids, max_positions, is_limited: false }
    }

    /// A model of a known shape with random weights.
    pub(crate) fn random(shape: &RandomShape) -> Result<Self, Error> {
        let graph = shape.graph()?;
        let weights = Weights::Random(RandomWeights::new(&graph));
        Ok(Self::new(graph, weights, Vec::new(), shape.max_context))
    }

    /// The same with a cache of so many positions.
    pub(crate) fn limited(mut self, max_kv_size: Option<u32>) -> Result<Self, Error> {
        match max_kv_size {
            None => Ok(self),
            Some(found) if found < LEAST_KV_SIZE => Err(Error::BadKvSize { found, least: LEAST_KV_SIZE }),
            Some(max) => {
                self.graph = limit_kv::run(&self.graph, max);
                self.is_limited = true;
                Ok(self)
            }
        }
    }

    /// The longest sequence that is asked for, if the model takes it.
    pub(crate) fn context(&self, asked: Option<u32>) -> Result<u32, Error> {
        let most = if self.is_limited { MAX_LIMITED_CONTEXT } else { self.max_positions };
        match asked {
            None => Ok(default_context(most, self.is_limited)),
            Some(n) if (1..=most).contains(&n) => Ok(n),
            Some(found) => {
                let more = if self.is_limited { "" } else { ", and more with --max-kv-size" };
                Err(Error::BadContext { found, allowed: format!("this model takes 1 to {most} tokens{more}") })
            }
        }
    }

    /// The files of the weights, with their hashes.
    pub(crate) fn sources(&self) -> Result<Vec<SourceFile>, Error> {
        let Some(checkpoint) = self.weights.checkpoint() else { return Ok(Vec::new()) };
        let source = |path: &Path| -> std::io::Result<SourceFile> {
            let path: PathBuf = std::fs::canonicalize(path)?;
            Ok(SourceFile { n_bytes: std::fs::metadata(&path)?.len(), blake3: hash_file(&path)?, path })
        };
        checkpoint.paths().map(|path| source(path).map_err(|error| Error::io(path, error))).collect()
    }
}
