//! What the compiler knows of a device: limits, and which fusions pay there.

use crate::select::tiles::TileTable;
use ingot_ir::kv::{KvType, PAGE_TOKENS};
use ingot_ir::weight::{Format, KFormat};
pub use ingot_shaders::limits::{CoopScalar, CoopShape, Limits};
use std::sync::Arc;

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
    /// A factor on the embedding into its lookup.
    EmbedScale,
    /// Residual addition into the norm before it.
    NormResidual,
    /// Norms of the heads of queries and keys into their rotation.
    HeadNorm,
    /// Rotation and cache write into the product that makes queries, keys and values; their rows are then in an order
    /// in which rotary pairs are neighbours.
    RopeKv,
    /// Inputs of half-precision products in half rows, the norm's weight multiplied in by whoever computes them.
    HalfRows,
}

/// Matrix units as a kernel takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MatrixUnits {
    /// Rows and columns of a matrix.
    pub side: u32,
    /// Invocations of a subgroup.
    pub lanes: u32,
}

/// Columns that products on matrix units take at a time.
const COOP_COLUMNS: u32 = 32;

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
    /// What the platform takes of one kernel; every kernel of a plan is checked against it. (Nothing of it is for the CPU.)
    pub limits: Limits,
    /// Whether the device shares the processor's memory.
    pub unified_memory: bool,
    /// Memory bandwidth of a middling device of this kind in 10^9 bytes a second: a class for estimates, no promise.
    pub bandwidth_gb_s: u32,
    /// Tokens of the largest prefill chunk.
    pub prefill_tokens: u32,
    /// Rows that the matrix-vector kernel multiplies with each weight that it reads.
    pub matvec_rows: u32,
    /// Times that it may read all weights, each time for other rows, before the tiled product takes over: that one costs as
    /// much for one row as for a tile.
    pub matvec_rounds: u32,
    /// At most so many rows take the matrix-vector kernel where the product could take matrix units.
    pub max_rows_before_units: u32,
    /// Chunks of tokens, besides the longest, whose products on matrix units have tiles of their own: each is a variant.
    pub unit_chunks: &'static [u32],
    /// Workgroups that keep the device busy: of fewer large tiles on matrix units it makes more smaller ones. 0 where that
    /// was not measured.
    pub busy_workgroups: u32,
    /// Rows whose logits one step may want.
    pub max_rows: u32,
    /// Queries that a prefill attention tile covers.
    pub prefill_q_tile: u32,
    /// Type of keys and values.
    pub kv_type: KvType,
    /// Tokens a KV page.
    pub page_tokens: u32,
    /// Whether matrix-vector products round activations to 8 bits where they can (`Self::multiplies_bytes`).
    pub int8_activations: bool,
    /// Fusions that do not pay or do not exist here.
    pub declined: Vec<Fusion>,
    /// Measured tiles of matrix products; what it does not know takes the catalogue's defaults.
    pub tiles: Arc<TileTable>,
}

/// What wgpu binds at most on Vulkan, where drivers offer 4 GiB.
const VULKAN_BINDING: u64 = (1 << 31) - 4;

impl TargetProfile {
    /// The processor: weights as stored, f32 keys and values, coarse kernels.
    pub fn cpu() -> Self {
        Self {
            name: "cpu".into(),
            is_cpu: true,
            max_binding_bytes: u64::MAX,
            subgroups: false,
            limits: Limits::COMMON,
            unified_memory: true,
            bandwidth_gb_s: 50,
            prefill_tokens: 512,
            matvec_rows: 8,
            matvec_rounds: 1,
            max_rows_before_units: u32::MAX,
            unit_chunks: &[],
            busy_workgroups: 0,
            max_rows: 16,
            prefill_q_tile: 16,
            kv_type: KvType::F32,
            int8_activations: false,
            page_tokens: PAGE_TOKENS,
            // Its kernels read the checkpoint's rows where they are mapped, so they cannot be put in another order.
            declined: vec![Fusion::RopeKv],
            tiles: Arc::default(),
        }
    }

    /// A GPU of which only this is known: what every GPU takes, and subgroups of any size if it has them.
    pub fn gpu(name: impl Into<String>, max_binding_bytes: u64, subgroups: bool) -> Self {
        let name = name.into();
        Self {
            tiles: Arc::new(TileTable::built_in(&name)),
            name,
            is_cpu: false,
            max_binding_bytes,
            subgroups,
            limits: Limits { subgroup: subgroups.then_some((1, 128)), ..Limits::COMMON },
            unified_memory: false,
            bandwidth_gb_s: 300,
            prefill_tokens: 512,
            matvec_rows: 8,
            matvec_rounds: 1,
            max_rows_before_units: u32::MAX,
            unit_chunks: &[],
            busy_workgroups: 0,
            max_rows: 16,
            prefill_q_tile: 16,
            kv_type: KvType::F16,
            int8_activations: false,
            page_tokens: PAGE_TOKENS,
            declined: Vec::new(),
        }
    }

    /// Any desktop Vulkan device: what the drivers of AMD, Intel and NVIDIA all report (`VkPhysicalDeviceLimits`,
    /// `VkPhysicalDeviceSubgroupProperties`): 32 KiB of shared memory, 256 invocations, subgroups of 8 (Intel) to 64 (AMD).
    /// wgpu binds at most 2 GiB - 4 there. No f16 and no cooperative matrices, which older ones lack.
    pub fn vulkan() -> Self {
        let plain = Self::gpu("vulkan", VULKAN_BINDING, true);
        Self { limits: Limits { subgroup: Some((8, 64)), ..plain.limits }, matvec_rounds: 2, ..plain }
    }

    /// NVIDIA from Turing on through Vulkan: 48 KiB of shared memory, 1024 invocations, subgroups of 32 (the driver's
    /// `VkPhysicalDeviceLimits`), f16, 4 x 8-bit dot products (`VK_KHR_shader_integer_dot_product`), matrices of
    /// 16 x 16 x 16 from f16 to either type (`VK_KHR_cooperative_matrix`). Grids are kept to WebGPU's 65,535.
    pub fn nvidia() -> Self {
        use CoopScalar::{F16, F32};
        let limits = Limits {
            workgroup_bytes: 48 << 10,
            max_invocations: 1024,
            subgroup: Some((32, 32)),
            f16: true,
            integer_dot: true,
            cooperative: vec![CoopShape::square(16, F16, F16), CoopShape::square(16, F16, F32)],
            ..Limits::COMMON
        };
        Self {
            limits,
            bandwidth_gb_s: 900,
            matvec_rounds: 8,
            max_rows_before_units: 4,
            unit_chunks: &[16, 32, 64, 256],
            busy_workgroups: 128,
            ..Self::gpu("nvidia", VULKAN_BINDING, true)
        }
    }

    /// Mesa's software rasterizer, as Mesa 22.3's llvmpipe reports itself (`ingot devices --json`): bindings of 128 MiB,
    /// 32 KiB of workgroup memory, 1024 invocations, subgroups of 8 (16 with AVX-512), f16.
    pub fn lavapipe() -> Self {
        let limits = Limits { max_invocations: 1024, subgroup: Some((4, 16)), f16: true, ..Limits::COMMON };
        Self {
            limits,
            unified_memory: true,
            bandwidth_gb_s: 1,
            prefill_tokens: 64,
            max_rows: 64,
            ..Self::gpu("lavapipe", 128 << 20, true)
        }
    }

    /// Apple silicon through Metal: see [`Limits::apple`] for a kernel's limits and their source; bindings of
    /// less than 4 GiB, as naga passes a buffer's length to kernels in 32 bits.
    pub fn apple() -> Self {
        Self {
            limits: Limits::apple(),
            unified_memory: true,
            bandwidth_gb_s: 200,
            matvec_rounds: 2,
            ..Self::gpu("apple", (4 << 30) - 4, true)
        }
    }

    /// What every WebGPU implementation offers: the default limits of the specification (section "Limits"): 8 storage
    /// buffers, 16 KiB of workgroup memory, 256 invocations, 65,535 workgroups, bindings of 128 MiB; no extensions.
    pub fn webgpu() -> Self {
        let limits = Limits { workgroup_bytes: 16 << 10, ..Limits::COMMON };
        // Half the usual tile, so that queries of 256 numbers fit.
        Self { limits, prefill_q_tile: 8, ..Self::gpu("webgpu", 128 << 20, false) }
    }

    /// The presets by name.
    pub fn preset(name: &str) -> Option<Self> {
        Self::presets().into_iter().find(|target| target.name == name)
    }

    /// Every preset.
    pub fn presets() -> Vec<Self> {
        vec![Self::cpu(), Self::vulkan(), Self::nvidia(), Self::apple(), Self::lavapipe(), Self::webgpu()]
    }

    /// Whether a matrix-vector product of quantized weights of `n_cols` columns multiplies in half precision.
    pub fn multiplies_half(&self, format: Format, n_cols: u32) -> bool {
        !self.is_cpu && self.subgroups && self.limits.f16 && format.is_quantized() && n_cols.is_multiple_of(32)
    }

    /// The matrix units that a product of many rows with weights of `n_cols` columns takes, inputs rounded to f16 and sums in
    /// f32; `None` without, and for f32 weights, which would be rounded too. A kernel deals out its tile to subgroups, so
    /// it must know how many invocations each has.
    pub fn matrix_units(&self, format: Format, n_cols: u32) -> Option<MatrixUnits> {
        let rounds = format != Format::F32 && n_cols.is_multiple_of(COOP_COLUMNS);
        self.units().filter(|_| rounds)
    }

    /// The matrix units that attention over chunks takes, queries and weights rounded to f16; `None` without, and for keys and
    /// values in f32.
    pub fn attention_units(&self, head_dim: u32) -> Option<MatrixUnits> {
        let suits = |units: &MatrixUnits| {
            let sides = [head_dim, self.prefill_q_tile, units.lanes];
            sides.iter().all(|n| n.is_multiple_of(units.side))
                && (16..=128).contains(&head_dim)
                && self.prefill_q_tile <= 16
        };
        self.units().filter(suits).filter(|_| self.kv_type != KvType::F32)
    }

    fn units(&self) -> Option<MatrixUnits> {
        if self.is_cpu || !self.subgroups || !self.limits.f16 {
            return None;
        }
        let lanes = self.limits.subgroup.filter(|(least, most)| least == most && (4..=64).contains(least))?.0;
        let has =
            |side: &u32| self.limits.cooperative.contains(&CoopShape::square(*side, CoopScalar::F16, CoopScalar::F32));
        let side = [16, 8].into_iter().find(has)?;
        Some(MatrixUnits { side, lanes })
    }

    /// Whether some products of many rows take matrix units.
    pub fn has_matrix_units(&self) -> bool {
        self.matrix_units(Format::Bf16, COOP_COLUMNS).is_some()
    }

    /// Whether a matrix-vector product of weights of `n_cols` columns may round activations to 8 bits and multiply in whole
    /// numbers: codes of 4 and 8 bits, where four lanes of a subgroup can make a block together.
    pub fn multiplies_bytes(&self, format: Format, n_cols: u32) -> bool {
        let is_code = matches!(format, Format::Affine { bits: 4 | 8, .. } | Format::K(KFormat::Q4K));
        let lanes = self.limits.subgroup.map_or(0, |(least, _)| least);
        self.int8_activations
            && is_code
            && lanes >= 4
            && self.limits.integer_dot
            && self.multiplies_half(format, n_cols)
    }

    /// Rows up to which a matrix product takes the matrix-vector kernel.
    pub fn few_rows(&self) -> u32 {
        self.matvec_rows.saturating_mul(self.matvec_rounds)
    }

    /// The same for a product that could take matrix units.
    pub fn rows_before_units(&self) -> u32 {
        self.few_rows().min(self.max_rows_before_units)
    }

    /// Whether attention of one query a sequence has a kernel of its own here, which can split KV: it needs subgroups of 8
    /// lanes or more, and takes heads of a multiple of 64 numbers.
    pub fn splits_kv(&self) -> bool {
        let lanes = self.limits.subgroup.map_or(0, |(least, _)| least);
        !self.is_cpu && self.subgroups && lanes >= 8
    }

    /// Whether a fusion is wanted. Codes in pages need a whole group's range, which no product's tile sees.
    pub fn takes(&self, fusion: Fusion) -> bool {
        let possible = fusion != Fusion::RopeKv || self.kv_type.group().is_none();
        possible && !self.declined.contains(&fusion)
    }
}
