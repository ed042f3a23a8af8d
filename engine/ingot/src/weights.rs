//! The bytes of a model's weights, wherever they are, as plans ask for them.

use crate::doctor::MadeWeights;
use crate::random::RandomWeights;
use ingot_compiler::artifact::Artifact;
use ingot_compiler::repack::{self, TensorBytes};
use ingot_ir::plan::{BlobId, Plan, PlanWeight};
use ingot_models::formats::affine::AffineMatrix;
use ingot_models::formats::checkpoint::Checkpoint;
use ingot_runtime::cpu::execute::{StoredTensor, WeightSource};
use std::sync::Arc;

/// Where weights come from. That they have all the bytes that a plan takes is checked before it is loaded: by the graph
/// that was built from them, else by [`Weights::check`].
pub(crate) enum Weights {
    /// Mapped checkpoint files.
    Checkpoint(Checkpoint),
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

    fn find(&self, name: &str) -> Option<TensorBytes<'_>> {
        if name != self.path {
            return self.others.find(name);
        }
        let AffineMatrix { codes, scales, biases, .. } = &self.matrix;
        Some(TensorBytes { values: codes, scales, biases, global: &[] })
    }
}

impl Weights {
    /// A segment's tensor: a vector by its full name, a matrix by its module's path.
    pub(crate) fn find(&self, name: &str) -> Option<TensorBytes<'_>> {
        let checkpoint = match self {
            Self::Checkpoint(checkpoint) => checkpoint,
            Self::Artifact(artifact) => return artifact.tensor(name),
            Self::Random(random) => return random.find(name),
            Self::Made(made) => return made.find(name),
            Self::Changed(changed) => return changed.find(name),
        };
        if let Some(tensor) = checkpoint.get(name) {
            return Some(TensorBytes { values: tensor.bytes, ..TensorBytes::default() });
        }
        let part = |ending: &str| checkpoint.get(&format!("{name}.{ending}")).map(|tensor| tensor.bytes);
        let or_none = |ending: &str| part(ending).unwrap_or(&[]);
        let (scales, biases, global) = (or_none("scales"), or_none("biases"), or_none("global_scale"));
        Some(TensorBytes { values: part("weight")?, scales, biases, global })
    }

    /// A tensor that was checked to be there.
    pub(crate) fn tensor_bytes(&self, name: &str) -> TensorBytes<'_> {
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
        repack::fill(weight, &|name| self.tensor_bytes(name), offset, out);
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let TensorBytes { values, scales, biases, global } = self.find(name)?;
        Some(StoredTensor { codes: values, scales, biases, global })
    }
    fn vector(&self, weight: &PlanWeight) -> Vec<f32> {
        repack::vector(weight, &|name| self.tensor_bytes(name))
    }
}
