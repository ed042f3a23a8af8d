//! A checkpoint folder, opened: configuration and weights, and the graph that they make.

use crate::arch;
use crate::config::ModelSpec;
use crate::error::Result;
use crate::formats::checkpoint::Checkpoint;
use crate::weights::WeightTable;
use ingot_ir::graph::Graph;
use std::path::Path;

/// An opened checkpoint. Weights are mapped, not read.
#[derive(Debug)]
pub struct Model {
    /// What the model is.
    pub spec: ModelSpec,
    /// Where its weights are.
    pub checkpoint: Checkpoint,
}

impl Model {
    /// Opens a folder with `config.json` and `model*.safetensors`. The configuration is read first, so that a folder of
    /// an unknown architecture is named as such.
    pub fn open(folder: &Path) -> Result<Self> {
        Checkpoint::check_folder(folder)?;
        let spec = ModelSpec::load(folder)?;
        Ok(Self { spec, checkpoint: Checkpoint::open(folder)? })
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
