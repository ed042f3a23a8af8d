//! What the generators of kernels with cooperative matrices share.

/// A cooperative matrix type of `side` rows and columns.
pub(crate) fn matrix(side: u32, scalar: &str, role: &str) -> String {
    format!("coop_mat{side}x{side}<{scalar}, {role}>")
}

/// Pieces of memory that the invocations of a workgroup bring together, one each in turn.
#[derive(Clone, Copy)]
pub(crate) struct Pieces {
    /// All of them.
    pub all: u32,
    /// Invocations.
    pub threads: u32,
}

impl Pieces {
    /// How many an invocation brings at most.
    pub(crate) fn each(self) -> u32 {
        self.all.div_ceil(self.threads)
    }

    /// The number of an invocation's i-th piece; the last invocations repeat what another brings.
    pub(crate) fn id(self, i: u32) -> String {
        let id = format!("thread + {}u", i * self.threads);
        if (i + 1) * self.threads > self.all { format!("min({id}, {}u)", self.all - 1) } else { id }
    }

    /// Before a store of the i-th piece: whether it is not such a repetition.
    pub(crate) fn guard(self, i: u32) -> String {
        let is_ragged = (i + 1) * self.threads > self.all;
        if is_ragged { format!("if thread < {}u ", self.all - i * self.threads) } else { String::new() }
    }
}
