//! Memory that kernels reuse from call to call.

use super::rope_kv::RopeTable;

/// What kernels need beside their operands. It grows to the largest call it has seen and is never given back, so a
/// decode step allocates nothing once the first step is done. One scratch serves one step at a time.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Normalized rows of a prologue, [rows][K].
    pub(crate) normed: Vec<f32>,
    /// Rows of x ordered for the matrix-vector kernels.
    pub(crate) prepared: Vec<f32>,
    /// Private memory of each thread, one part a thread.
    pub(crate) threads: Vec<f32>,
    /// Cosines and sines of the step's positions.
    pub(crate) rope: RopeTable,
}

impl Scratch {
    /// An empty scratch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes held now.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        4 * (self.normed.capacity() + self.prepared.capacity() + self.threads.capacity()) + self.rope.size_bytes()
    }
}

/// The first `len` elements of `buffer`, which grows if it is shorter. What they hold is left over from before.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
