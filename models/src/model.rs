//! A checkpoint, opened: configuration and weights, and the graph that they make.

use crate::arch;
use crate::config::ModelSpec;
use crate::error::Result;
use crate::files::Files;
use crate::formats::checkpoint::Checkpoint;
use crate::formats::gguf;
use crate::weights::WeightTable;
use ingot_ir::graph::Graph;
use std::path::Path;

/// An opened checkpoint. Weights of a folder are mapped, not read; those of a GGUF file are taken apart in memory.
#[derive(Debug)]
pub struct Model {
    /// What the model is.
    pub spec: ModelSpec,
    /// Where its weights are.
    pub checkpoint: Checkpoint,
    /// Where its small files are.
    pub files: Files,
}

impl Model {
    /// Opens a folder with `config.json` and `model*.safetensors`, or a GGUF file. The configuration is read first, so that a
    /// checkpoint of an unknown architecture is named as such.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() && gguf::is_gguf(path) {
            let (checkpoint, files) = gguf::open(path)?;
            return Ok(Self { spec: ModelSpec::of(&files)?, checkpoint, files });
        }
        Checkpoint::check_folder(path)?;
        let files = Files::folder(path);
        let spec = ModelSpec::of(&files)?;
        Ok(Self { spec, checkpoint: Checkpoint::open(path)?, files })
    }
    /// The weights by module.
    pub fn weights(&self) -> WeightTable<'_> {
        WeightTable::new(&self.checkpoint, self.spec.quantization.as_ref())
    }
    /// The op graph.
    pub fn graph(&self) -> Result<Graph> {
        arch::build(&self.spec, self.weights())
    }
}
