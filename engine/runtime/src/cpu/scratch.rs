//! Memory that kernels reuse from call to call.

use super::linear::experts::Gathered;
use super::rope_kv::RopeTable;
use super::simd::int8::round::Block;

/// What kernels need beside their operands. It grows to the largest call it has seen and is never given back, so a
/// decode step allocates nothing once the first step is done. One scratch serves one step at a time.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Normalized rows of a prologue, [rows][K].
    pub(crate) normed: Vec<f32>,
    /// Rows of x ordered for the matrix-vector kernels.
    pub(crate) prepared: Vec<f32>,
    /// Rows of x rounded to 8 bits.
    pub(crate) rounded: Vec<Block>,
    /// Codes unpacked to bytes, one part a thread.
    pub(crate) panels: Vec<u8>,
    /// Private memory of each thread, one part a thread.
    pub(crate) threads: Vec<f32>,
    /// Rows by the experts that they take.
    pub(crate) gathered: Gathered,
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
        let floats = self.normed.capacity() + self.prepared.capacity() + self.threads.capacity();
        let rounded = self.rounded.capacity() * size_of::<Block>() + self.panels.capacity();
        4 * floats + rounded + self.gathered.size_bytes() + self.rope.size_bytes()
    }
}

/// The first `len` elements of `buffer`, which grows with `new` if it is shorter. What they hold is left over from
/// before.
pub(crate) fn sized<T: Clone>(buffer: &mut Vec<T>, len: usize, new: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, new);
    }
    &mut buffer[..len]
}
