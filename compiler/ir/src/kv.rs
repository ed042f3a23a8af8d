//! The paged KV cache's shape. Layers whose entries have equal size and lifetime form a group with a page table
//! of its own, so that windowed and full layers, or a latent (MLA), live side by side.

use crate::IrError;
use crate::handle::{Arena, handle};
use serde::{Deserialize, Serialize};
use std::fmt;

handle! {
    /// A [`KvGroup`].
    KvGroupId "g"
    /// A [`KvLayer`].
    KvLayerId "l"
}

/// Tokens a page holds unless told otherwise.
pub const PAGE_TOKENS: u32 = 16;

/// Type of keys and values in pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum KvType {
    /// Half precision, two in a 32-bit word.
    F16,
    /// Single precision.
    F32,
    /// Codes of 4 or 8 bits, with a scale and a bias in f16 for each `group` (32, 64 or 128) numbers of a head; what
    /// MLX calls affine quantization. The 16 rows of codes of a head's page come first, then their scales and biases.
    Affine {
        /// Bits of a code.
        bits: u8,
        /// Numbers that share a scale and a bias.
        group: u8,
    },
}

impl KvType {
    /// Bits of a number, scales aside.
    pub fn bits(self) -> u32 {
        match self {
            Self::F16 => 16,
            Self::F32 => 32,
            Self::Affine { bits, .. } => bits.into(),
        }
    }
    /// Numbers that share a scale, if any do.
    pub fn group(self) -> Option<u32> {
        match self {
            Self::F16 | Self::F32 => None,
            Self::Affine { group, .. } => Some(group.into()),
        }
    }
    /// Bytes of a key or value of `dim` numbers.
    pub fn row_bytes(self, dim: u32) -> u64 {
        let scales = self.group().map_or(0, |group| 4 * u64::from(dim / group));
        u64::from(dim) * u64::from(self.bits()) / 8 + scales
    }
    /// Why heads of `dim` numbers cannot be kept so, if they cannot.
    pub fn refuses(self, dim: u32) -> Option<String> {
        match self {
            Self::F16 if !dim.is_multiple_of(2) => {
                Some(format!("heads of {dim} numbers do not fill words of f16; take f32"))
            }
            Self::F16 | Self::F32 => None,
            Self::Affine { bits, group } if !matches!(bits, 4 | 8) || !matches!(group, 32 | 64 | 128) => {
                Some(format!("a KV cache has codes of 4 or 8 bits in groups of 32, 64 or 128, not {self}"))
            }
            Self::Affine { group, .. } if !dim.is_multiple_of(group.into()) => {
                Some(format!("heads of {dim} numbers have no groups of {group}; take another group size, or f16"))
            }
            Self::Affine { .. } => None,
        }
    }
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "f16" => return Some(Self::F16),
            "f32" => return Some(Self::F32),
            _ => {}
        }
        let (bits, group) = text.strip_prefix("affine")?.split_once('g')?;
        let found = Self::Affine { bits: bits.parse().ok()?, group: group.parse().ok()? };
        found.refuses(128).is_none().then_some(found)
    }
}

/// `f16`, `f32` or `affine8g64`.
impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F16 => f.pad("f16"),
            Self::F32 => f.pad("f32"),
            Self::Affine { bits, group } => f.pad(&format!("affine{bits}g{group}")),
        }
    }
}

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
    /// Bytes that a token occupies in a layer.
    pub fn entry_bytes(&self, kv: KvType) -> u64 {
        let value = if self.latent { 0 } else { kv.row_bytes(self.v_dim) };
        u64::from(self.n_kv_heads) * (kv.row_bytes(self.k_dim) + value)
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
