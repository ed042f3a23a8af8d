//! The checkpoint's bytes, as the plan's weights ask for them.

use ingot_compiler::repack::{self, TensorBytes};
use ingot_ir::plan::PlanWeight;
use ingot_models::formats::checkpoint::Checkpoint;
use ingot_runtime::cpu::execute::{StoredTensor, WeightSource};

/// Mapped checkpoint files. Shapes and types were checked when the graph was built.
pub(crate) struct Mapped(pub Checkpoint);

impl Mapped {
    /// A segment's tensor: a vector by its full name, a matrix by its module's path.
    pub(crate) fn bytes(&self, name: &str) -> Option<TensorBytes<'_>> {
        if let Some(tensor) = self.0.get(name) {
            return Some(TensorBytes { values: tensor.bytes, scales: &[], biases: &[] });
        }
        let part = |ending: &str| self.0.get(&format!("{name}.{ending}")).map(|tensor| tensor.bytes);
        let values = part("weight")?;
        Some(TensorBytes { values, scales: part("scales").unwrap_or(&[]), biases: part("biases").unwrap_or(&[]) })
    }

    fn found(&self, name: &str) -> TensorBytes<'_> {
        self.bytes(name).unwrap_or_else(|| unreachable!("the graph was built from this checkpoint, which has {name}"))
    }

    /// Fills bytes `offset ..` of a weight in its layout.
    pub(crate) fn fill(&self, weight: &PlanWeight, offset: u64, out: &mut [u8]) {
        repack::fill(weight, &|name| self.found(name), offset, out);
    }
}

impl WeightSource for Mapped {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let TensorBytes { values, scales, biases } = self.bytes(name)?;
        Some(StoredTensor { codes: values, scales, biases })
    }
    fn vector(&self, weight: &PlanWeight) -> Vec<f32> {
        repack::vector(weight, &|name| self.found(name))
    }
}
