//! The paged KV cache's shape. Layers whose entries have equal size and lifetime form a group with a page table
//! of its own, so that windowed and full layers, or a latent (MLA), live side by side.

use crate::IrError;
use crate::handle::{Arena, handle};
use serde::{Deserialize, Serialize};
use std::ops::Range;

handle! {
    /// A [`KvGroup`].
    KvGroupId "g"
    /// A [`KvLayer`].
    KvLayerId "l"
}

/// Tokens a page holds unless told otherwise.
pub const PAGE_TOKENS: u32 = 16;

/// What one token leaves in one layer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct KvShape {
    /// Heads stored. A latent has one.
    pub n_kv_heads: u32,
    /// Numbers a key, a head.
    pub k_dim: u32,
    /// Numbers a value, a head.
    pub v_dim: u32,
    /// Whether the value is the first `v_dim` numbers of the key, so that only keys are stored (MLA).
    pub latent: bool,
}

impl KvShape {
    /// Numbers that a token occupies in a layer.
    pub fn n_values(&self) -> u32 {
        self.n_kv_heads * (self.k_dim + if self.latent { 0 } else { self.v_dim })
    }
}

/// Which positions a query sees: `j <= p`, and if there is a window `j > p - window` or `j < keep`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Window {
    /// Window length in tokens; 0 for all.
    pub window: u32,
    /// Positions at the start that stay visible.
    pub keep: u32,
}

impl Window {
    /// Sees everything before it.
    pub const FULL: Self = Self { window: 0, keep: 0 };
    /// Whether the query at position `p` sees position `j`.
    pub fn sees(&self, p: u32, j: u32) -> bool {
        j <= p && (self.window == 0 || p - j < self.window || j < self.keep)
    }
    /// Places of pages of which no query at position `p` or later sees a token.
    pub fn unseen(&self, p: usize, page_tokens: usize) -> Range<usize> {
        if self.window == 0 {
            return 0..0;
        }
        let first_seen = (p + 1).saturating_sub(self.window as usize);
        let (end, start) = (first_seen / page_tokens, (self.keep as usize).div_ceil(page_tokens));
        start.min(end)..end
    }
}

/// Layers that share a page table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct KvGroup {
    /// Shape of an entry.
    pub shape: KvShape,
    /// What is visible, hence which pages may be freed.
    pub window: Window,
}

/// One layer's cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct KvLayer {
    /// The group.
    pub group: KvGroupId,
}

/// The whole cache's shape.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KvSpec {
    /// Groups.
    pub groups: Arena<KvGroupId, KvGroup>,
    /// Layers, each in a group.
    pub layers: Arena<KvLayerId, KvLayer>,
}

impl<H: crate::handle::Handle, T: Eq> Eq for Arena<H, T> where Arena<H, T>: PartialEq {}

impl KvSpec {
    /// Adds a layer, to the group that fits or to a new one.
    pub fn add_layer(&mut self, shape: KvShape, window: Window) -> KvLayerId {
        let wanted = KvGroup { shape, window };
        let found = self.groups.iter().find(|(_, group)| **group == wanted).map(|(id, _)| id);
        let group = found.unwrap_or_else(|| self.groups.push(wanted));
        self.layers.push(KvLayer { group })
    }
    /// Checks that layers are in groups, and that groups hold something.
    pub fn verify(&self) -> Result<(), IrError> {
        for (id, group) in self.groups.iter() {
            let KvShape { n_kv_heads, k_dim, v_dim, latent } = group.shape;
            let fits = k_dim.checked_add(v_dim).and_then(|both| both.checked_mul(n_kv_heads)).is_some();
            if !fits || n_kv_heads == 0 || k_dim == 0 || v_dim == 0 {
                return Err(IrError::invalid(
                    id,
                    format!("{n_kv_heads} heads of {k_dim} and {v_dim} numbers are too few or too many"),
                ));
            }
            if latent && (n_kv_heads != 1 || v_dim > k_dim) {
                return Err(IrError::invalid(id, "a latent has one head, and its values are a part of its keys"));
            }
        }
        match self.layers.iter().find(|(_, layer)| self.groups.get(layer.group).is_none()) {
            Some((id, layer)) => Err(IrError::invalid(id, format!("{} does not exist", layer.group))),
            None => Ok(()),
        }
    }
    /// The shape of a layer's entries.
    pub fn shape(&self, layer: KvLayerId) -> KvShape {
        self.groups[self.layers[layer].group].shape
    }
    /// Layers of a group.
    pub fn n_layers_of(&self, group: KvGroupId) -> usize {
        self.layers.as_slice().iter().filter(|layer| layer.group == group).count()
    }
}
