//! A program's own change of logits.

use std::fmt;
use std::sync::Arc;

/// Called with a sequence's tokens, prompt and answer so far, and the logits of the next one, which it may change. It runs on
/// the processor, so that logits are read back for each token.
pub type AdjustLogits = dyn Fn(&[u32], &mut [f32]) + Send + Sync;

/// Changes the logits of a request: after bias and penalties, before the tokens that the answer's form forbids are dropped,
/// and before the filters. So it may choose among what fits, and nothing that it does breaks a form.
#[derive(Clone)]
pub struct Adjust(Arc<AdjustLogits>);

impl Adjust {
    /// The change that a function makes.
    pub fn new(adjust: impl Fn(&[u32], &mut [f32]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(adjust))
    }

    /// Changes logits. What is no number afterwards is never chosen, and infinity is the greatest number.
    pub(super) fn run(&self, tokens: &[u32], logits: &mut [f32]) {
        (self.0)(tokens, logits);
        for logit in logits {
            *logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) };
        }
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
