//! The bytes of a model's weights, wherever they are, as plans ask for them.

use crate::doctor::MadeWeights;
use crate::random::RandomWeights;
use ingot_compiler::artifact::Artifact;
use ingot_compiler::repack::{self, MakeRows, Tensor, TensorBytes};
use ingot_ir::plan::{BlobId, Plan, PlanWeight};
use ingot_ir::weight::{Format, Part};
use ingot_models::formats::affine::AffineMatrix;
use ingot_models::formats::checkpoint::Checkpoint;
use ingot_models::formats::foreign::{Foreign, Rows};
use ingot_runtime::cpu::execute::{StoredTensor, WeightSource};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Where weights come from. That they have all the bytes that a plan takes is checked before it is loaded: by the graph
/// that was built from them, else by [`Weights::check`].
pub(crate) enum Weights {
    /// Mapped checkpoint files.
    Checkpoint(CheckpointWeights),
    /// A mapped artifact, with the weights inside.
    Artifact(Arc<Artifact>),
    /// Made on the spot.
    Random(RandomWeights),
    /// Small and made on the spot, in any format.
    Made(MadeWeights),
    /// Those of another, but for one matrix.
    Changed(ChangedWeights),
}

/// Weights of which one matrix is quantized.
pub(crate) struct ChangedWeights {
    others: Arc<Weights>,
    path: String,
    matrix: AffineMatrix,
}

impl ChangedWeights {
    pub(crate) fn new(others: Arc<Weights>, path: String, matrix: AffineMatrix) -> Self {
        Self { others, path, matrix }
    }

    /// The matrix, if it is asked for.
    fn own(&self, name: &str) -> Option<TensorBytes<'_>> {
        let AffineMatrix { codes, scales, biases, .. } = &self.matrix;
        (name == self.path).then_some(TensorBytes { values: codes, scales, biases, global: &[] })
    }
}

/// A checkpoint, and those of its matrices whose rows had to be made in whole: the processor reads them in every step.
pub(crate) struct CheckpointWeights {
    checkpoint: Checkpoint,
    /// By module path, empty until they are asked for.
    made: BTreeMap<String, OnceLock<Rows>>,
}

impl CheckpointWeights {
    fn new(checkpoint: Checkpoint) -> Self {
        let paths = checkpoint.names().filter_map(|name| name.strip_suffix(".weight"));
        let foreign = paths.filter(|path| checkpoint.foreign(path).is_some());
        let made = foreign.map(|path| (path.to_owned(), OnceLock::new())).collect();
        Self { checkpoint, made }
    }

    /// A matrix in another engine's form, made in whole the first time. From then on the file's bytes take no memory.
    fn whole(&self, path: &str) -> Option<&Rows> {
        let foreign = self.checkpoint.foreign(path)?;
        let make = || {
            let rows = foreign.rows(0..foreign.n_rows);
            self.checkpoint.release(path);
            rows
        };
        Some(self.made.get(path)?.get_or_init(make))
    }

    /// Lets go of the file's bytes of all that was made: of neighbours in the file a look at one may have brought back the others.
    fn release_made(&self) {
        let made = self.made.iter().filter(|(_, rows)| rows.get().is_some());
        made.for_each(|(path, _)| self.checkpoint.release(path));
    }

    fn stored(&self, name: &str) -> Option<TensorBytes<'_>> {
        let checkpoint = &self.checkpoint;
        if let Some(tensor) = checkpoint.get(name) {
            return Some(TensorBytes { values: tensor.bytes, ..TensorBytes::default() });
        }
        let part = |ending: &str| checkpoint.get(&format!("{name}.{ending}")).map(|tensor| tensor.bytes);
        let or_none = |ending: &str| part(ending).unwrap_or(&[]);
        let (scales, biases, global) = (or_none("scales"), or_none("biases"), or_none("global_scale"));
        Some(TensorBytes { values: part("weight")?, scales, biases, global })
    }
}

/// A matrix in another engine's form, as the repack step reads it.
struct ForeignRows<'a>(Foreign<'a>);

impl MakeRows for ForeignRows<'_> {
    fn format(&self) -> Format {
        self.0.format
    }
    fn n_rows(&self) -> u32 {
        self.0.n_rows as u32
    }
    fn n_cols(&self) -> u32 {
        self.0.n_cols as u32
    }
    fn make(&self, part: Part, first_row: u32, out: &mut [u8]) {
        self.0.make(part, first_row as usize, out);
    }
}

impl Weights {
    /// Those of a checkpoint.
    pub(crate) fn of_checkpoint(checkpoint: Checkpoint) -> Self {
        Self::Checkpoint(CheckpointWeights::new(checkpoint))
    }

    /// The checkpoint, if they are in one.
    pub(crate) fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Self::Checkpoint(weights) => Some(&weights.checkpoint),
            _ => None,
        }
    }

    /// The folder or file that they lie in.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Checkpoint(weights) => Some(weights.checkpoint.folder()),
            Self::Artifact(artifact) => Some(artifact.path()),
            Self::Changed(changed) => changed.others.path(),
            Self::Random(_) | Self::Made(_) => None,
        }
    }

    /// Lets go of what is in memory a second time, once all matrices were asked for.
    pub(crate) fn release_made(&self) {
        match self {
            Self::Checkpoint(weights) => weights.release_made(),
            Self::Changed(changed) => changed.others.release_made(),
            _ => {}
        }
    }

    /// A segment's tensor: a vector by its full name, a matrix by its module's path.
    pub(crate) fn find(&self, name: &str) -> Option<Tensor<'_>> {
        match self {
            Self::Checkpoint(weights) => match weights.checkpoint.foreign(name) {
                Some(foreign) => Some(Tensor::Made(Box::new(ForeignRows(foreign)))),
                None => weights.stored(name).map(Tensor::Stored),
            },
            Self::Artifact(artifact) => artifact.tensor(name).map(Tensor::Stored),
            Self::Random(random) => random.find(name).map(Tensor::Stored),
            Self::Made(made) => made.find(name).map(Tensor::Stored),
            Self::Changed(changed) => match changed.own(name) {
                Some(own) => Some(Tensor::Stored(own)),
                None => changed.others.find(name),
            },
        }
    }

    /// A tensor that was checked to be there.
    pub(crate) fn known(&self, name: &str) -> Tensor<'_> {
        self.find(name).unwrap_or_else(|| unreachable!("a plan's weights are checked before it is loaded: {name}"))
    }

    /// Whether everything that a plan takes is there.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn check(&self, plan: &Plan) -> Result<(), String> {
        if matches!(self, Self::Artifact(_)) && !plan.is_cpu {
            // Its packed weights were measured when it was opened.
            return Ok(());
        }
        plan.weights.as_slice().iter().try_for_each(|weight| repack::check(weight, &|name| self.find(name)))
    }

    /// Fills bytes `offset ..` of a weight in its layout.
    pub(crate) fn fill(&self, id: BlobId, weight: &PlanWeight, offset: u64, out: &mut [u8]) {
        if let Self::Artifact(artifact) = self
            && let Some(packed) = artifact.weight(id)
        {
            return out.copy_from_slice(&packed[offset as usize..][..out.len()]);
        }
        repack::fill(weight, &|name| self.known(name), offset, out);
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        if let Self::Changed(changed) = self
            && name != changed.path
        {
            return changed.others.tensor(name);
        }
        if let Self::Checkpoint(weights) = self
            && let Some(Rows { values, scales, biases, .. }) = weights.whole(name)
        {
            return Some(StoredTensor { codes: values, scales, biases, global: &[] });
        }
        let Tensor::Stored(TensorBytes { values, scales, biases, global }) = self.find(name)? else { return None };
        Some(StoredTensor { codes: values, scales, biases, global })
    }
    fn vector(&self, weight: &PlanWeight) -> Vec<f32> {
        repack::vector(weight, &|name| self.known(name))
    }
}
