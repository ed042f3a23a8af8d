//! A program's own change of logits.

use std::fmt;
use std::sync::Arc;

/// Called with a sequence's tokens, prompt and answer so far, and the logits of the next one, which it may change. It runs on
/// the processor, so that logits are read back for each token.
pub type AdjustLogits = dyn Fn(&[u32], &mut [f32]) + Send + Sync;

/// Changes the logits of a request, after bias and penalties and before the filters.
#[derive(Clone)]
pub struct Adjust(Arc<AdjustLogits>);

impl Adjust {
    /// The change that a function makes.
    pub fn new(adjust: impl Fn(&[u32], &mut [f32]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(adjust))
    }

    /// Changes logits. What is no number afterwards is never chosen.
    pub(super) fn run(&self, tokens: &[u32], logits: &mut [f32]) {
        (self.0)(tokens, logits);
        logits.iter_mut().filter(|logit| logit.is_nan()).for_each(|logit| *logit = f32::NEG_INFINITY);
    }
}

impl PartialEq for Adjust {
    /// Whether it is the same function of the program.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Adjust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Adjust(..)")
    }
}
