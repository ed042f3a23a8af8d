//! A checkpoint, opened: configuration and weights, and the graph that they make.

use crate::arch;
use crate::config::ModelSpec;
use crate::error::{Error, Result};
use crate::files::Files;
use crate::formats::checkpoint::Checkpoint;
use crate::formats::gguf;
use crate::weights::WeightTable;
use ingot_ir::graph::Graph;
use std::path::{Path, PathBuf};

/// An opened checkpoint. Weights are mapped, not read; of a GGUF file scales alone are.
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
            let spec = ModelSpec::of(&files).map_err(|error| checkpoint.in_own_words(error))?;
            return Ok(Self { spec, checkpoint, files });
        }
        Checkpoint::check_folder(path)?;
        check_for_files(path)?;
        let files = Files::folder(path);
        let spec = ModelSpec::of(&files)?;
        let mut checkpoint = Checkpoint::open(path)?;
        spec.packer.map_or(Ok(()), |packer| checkpoint.join_packed(packer))?;
        Ok(Self { spec, checkpoint, files })
    }
    /// The weights alone of a model whose small files are `files`: its safetensors files, or all parts of a GGUF file.
    /// `source` is named in messages.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn open_weights(source: &Path, paths: &[PathBuf], files: &Files) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::open_files(source, paths)?;
        ModelSpec::of(files)?.packer.map_or(Ok(()), |packer| checkpoint.join_packed(packer))?;
        Ok(checkpoint)
    }
    /// The weights by module.
    pub fn weights(&self) -> WeightTable<'_> {
        WeightTable::new(&self.checkpoint, self.spec.quantization.as_ref())
    }
    /// The op graph.
    pub fn graph(&self) -> Result<Graph> {
        arch::build(&self.spec, self.weights()).map_err(|error| self.checkpoint.in_own_words(error))
    }
}

/// Fails where a folder is none of a checkpoint but holds GGUF files, each of which is a model.
fn check_for_files(folder: &Path) -> Result<()> {
    if folder.join("config.json").exists() {
        return Ok(());
    }
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.ends_with(".gguf")).collect();
    found.sort_unstable();
    found.truncate(4);
    if found.is_empty() {
        return Ok(());
    }
    let what = format!("has no config.json, but GGUF files; name one of them itself, e.g. {}", found.join(", "));
    Err(Error::Missing { path: folder.to_path_buf(), what })
}
