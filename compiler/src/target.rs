//! What the compiler knows of a device: limits, and which fusions pay there.

use ingot_ir::kv::PAGE_TOKENS;
use ingot_ir::plan::KvType;

/// A fusion rule of the `group` pass. A target lists those that it declines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fusion {
    /// RMS norm into the matrix-vector product that follows.
    NormPrologue,
    /// Activation into the matrix product before it.
    Activation,
    /// Gate and up projections, their activation and product, into one kernel.
    GatePairs,
    /// Element-wise product with another value into the matrix product before it.
    Multiply,
    /// Residual addition into the matrix product before it.
    Residual,
    /// Rotation and cache write into the product that makes queries, keys and values; their rows are then in an order
    /// in which rotary pairs are neighbours.
    RopeKv,
}

/// A target: everything that may change the compiler's output but the model.
#[derive(Clone, PartialEq, Debug)]
pub struct TargetProfile {
    /// Name, e.g. `vulkan`.
    pub name: String,
    /// Whether the CPU runtime executes the plan.
    pub is_cpu: bool,
    /// Largest storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Whether kernels may use subgroup operations.
    pub subgroups: bool,
    /// Tokens of the largest prefill chunk.
    pub prefill_tokens: u32,
    /// Up to this many rows a matrix product reads its weights with the matrix-vector kernel.
    pub matvec_rows: u32,
    /// Rows whose logits one step may want.
    pub max_rows: u32,
    /// Queries that a prefill attention tile covers.
    pub prefill_q_tile: u32,
    /// Type of keys and values.
    pub kv_type: KvType,
    /// Tokens a KV page.
    pub page_tokens: u32,
    /// Fusions that do not pay or do not exist here.
    pub declined: Vec<Fusion>,
}

impl TargetProfile {
    /// The processor: weights as stored, f32 keys and values, coarse kernels.
    pub fn cpu() -> Self {
        Self {
            name: "cpu".into(),
            is_cpu: true,
            max_binding_bytes: u64::MAX,
            subgroups: false,
            prefill_tokens: 512,
            matvec_rows: 8,
            max_rows: 16,
            prefill_q_tile: 16,
            kv_type: KvType::F32,
            page_tokens: PAGE_TOKENS,
            // Its kernels read the checkpoint's rows where they are mapped, so they cannot be put in another order.
            declined: vec![Fusion::RopeKv],
        }
    }

    /// A GPU of the given limits.
    pub fn gpu(name: impl Into<String>, max_binding_bytes: u64, subgroups: bool) -> Self {
        Self {
            name: name.into(),
            is_cpu: false,
            max_binding_bytes,
            subgroups,
            prefill_tokens: 512,
            matvec_rows: 8,
            max_rows: 16,
            prefill_q_tile: 16,
            kv_type: KvType::F16,
            page_tokens: PAGE_TOKENS,
            declined: Vec::new(),
        }
    }

    /// Any desktop Vulkan device: 2 GiB - 4 bindings, subgroups.
    pub fn vulkan() -> Self {
        Self::gpu("vulkan", (1 << 31) - 4, true)
    }

    /// Mesa's software rasterizer: 128 MiB bindings.
    pub fn lavapipe() -> Self {
        Self { prefill_tokens: 64, max_rows: 64, ..Self::gpu("lavapipe", 128 << 20, true) }
    }

    /// Apple silicon through Metal.
    pub fn apple() -> Self {
        Self::gpu("apple", 4 << 30, true)
    }

    /// What every WebGPU implementation offers.
    pub fn webgpu() -> Self {
        Self::gpu("webgpu", 128 << 20, false)
    }

    /// The presets by name.
    pub fn preset(name: &str) -> Option<Self> {
        [Self::cpu(), Self::vulkan(), Self::lavapipe(), Self::apple(), Self::webgpu()]
            .into_iter()
            .find(|target| target.name == name)
    }

    /// Whether a fusion is wanted.
    pub fn takes(&self, fusion: Fusion) -> bool {
        !self.declined.contains(&fusion)
    }
}
