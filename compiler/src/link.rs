//! From a kernel spec of the plan to the catalogue of shaders, and back with source, bindings and grid.
//!
//! The two crates have types of their own: the catalogue knows no plan, the plan no WGSL. Names are the same, so a
//! name that one side lacks is a fault that the tests of the catalogue's combinations find.

use crate::CompileError;
use crate::target::TargetProfile;
use ingot_ir::kernel::{Access, Const, EpilogueOp, KernelSpec, Prologue, Role, Rows, Template};
use ingot_ir::plan::{PlanKernel, Slot};
use ingot_ir::size::Dim;
use ingot_ir::weight::{Format, KFormat, ScaleType};
use ingot_shaders as shaders;

/// Workgroups of a kernel: `(ceil(dim * each / divisor) + more) * times`; `dim` is 1 if absent.
pub(crate) struct GridRule {
    pub dim: Option<Dim>,
    pub each: u32,
    pub divisor: u32,
    pub more: u32,
    pub times: u32,
}

/// The grid rule of a kernel. The CPU runtime splits work itself.
pub(crate) fn grid(spec: &KernelSpec, target: &TargetProfile) -> Result<GridRule, CompileError> {
    if target.is_cpu {
        return Ok(GridRule { dim: None, each: 1, divisor: 1, more: 0, times: 1 });
    }
    let rule = shaders::grid(&translate(spec, target)).map_err(|error| failed(spec, &error))?;
    let dim = match rule.per {
        shaders::GridUnit::Tokens => Some(Dim::Tokens),
        shaders::GridUnit::Rows => Some(Dim::Rows),
        shaders::GridUnit::Tiles => Some(Dim::Tiles),
        shaders::GridUnit::Filtered => Some(Dim::Filtered),
        shaders::GridUnit::One => None,
    };
    Ok(GridRule { dim, each: rule.each, divisor: rule.unit_div, more: rule.more, times: rule.times })
}

/// An unsigned number of a kernel, defaults applied; `None` if the spec is not valid or has no such number.
pub(crate) fn const_value(spec: &KernelSpec, target: &TargetProfile, name: &str) -> Option<u32> {
    shaders::const_value(&translate(spec, target), name)
}

/// Links a kernel's source.
pub(crate) fn link(spec: &KernelSpec, target: &TargetProfile) -> Result<PlanKernel, CompileError> {
    let linked = shaders::link(&translate(spec, target)).map_err(|error| failed(spec, &error))?;
    shaders::limits::check(spec.template.name(), &linked.wgsl, &target.limits)
        .map_err(|error| failed(spec, &format_args!("{error} (target `{}`)", target.name)))?;
    let slot = |info: &shaders::BindingInfo| -> Result<Slot, CompileError> {
        let role = Role::parse(info.role.name())
            .ok_or_else(|| failed(spec, &format!("the plan knows no role {}", info.role)))?;
        let access = match info.access {
            shaders::Access::Read => Access::Read,
            shaders::Access::ReadWrite => Access::ReadWrite,
        };
        Ok(Slot { role, access, group: info.group, binding: info.binding })
    };
    let slots = linked.bindings.iter().map(slot).collect::<Result<_, _>>()?;
    Ok(PlanKernel { spec: spec.clone(), slots, workgroup: linked.workgroup_size, wgsl: linked.wgsl })
}

/// Whether a kernel's text, bindings and workgroup are what its spec links to, for a target with subgroups (the one that
/// takes the most of a kernel, and the one with the smaller matrix units) or without.
pub(crate) fn is_ours(kernel: &PlanKernel) -> bool {
    [TargetProfile::nvidia(), TargetProfile::webgpu(), TargetProfile::apple()]
        .iter()
        .any(|target| link(&kernel.spec, target).is_ok_and(|linked| linked == *kernel))
}

fn failed(spec: &KernelSpec, why: &dyn std::fmt::Display) -> CompileError {
    CompileError::Link { kernel: format!("{} {:?}", spec.template, spec.consts), why: why.to_string() }
}

fn translate(spec: &KernelSpec, target: &TargetProfile) -> shaders::KernelSpec {
    let tier = if target.subgroups { shaders::Tier::Subgroups } else { shaders::Tier::Plain };
    shaders::KernelSpec {
        template: template(spec.template),
        weight: spec.weight.map(weight_format),
        rows: match spec.rows {
            Rows::Tokens => shaders::Rows::Tokens,
            Rows::Wanted => shaders::Rows::Wanted,
        },
        prologue: match spec.prologue {
            Prologue::None => shaders::Prologue::None,
            Prologue::RmsNorm => shaders::Prologue::RmsNorm,
            Prologue::RmsNormParts => shaders::Prologue::RmsNormParts,
        },
        epilogue: spec.epilogue.iter().map(epilogue_op).collect(),
        consts: spec.consts.iter().map(|(name, value)| (name.clone(), constant(*value))).collect(),
        tier,
    }
}

fn template(template: Template) -> shaders::Template {
    match template {
        Template::Embed => shaders::Template::Embed,
        Template::RmsNorm => shaders::Template::RmsNorm,
        Template::Matvec => shaders::Template::Matvec,
        Template::Matmul => shaders::Template::Matmul,
        Template::MatmulCoop => shaders::Template::MatmulCoop,
        Template::RopeKv => shaders::Template::RopeKv,
        Template::Attention => shaders::Template::Attention,
        Template::AttentionCoop => shaders::Template::AttentionCoop,
        Template::AttentionDecode => shaders::Template::AttentionDecode,
        Template::AttentionCombine => shaders::Template::AttentionCombine,
        Template::GatherRows => shaders::Template::GatherRows,
        Template::Map => shaders::Template::Map,
        Template::MoeRoute => shaders::Template::MoeRoute,
        Template::MoeOrder => shaders::Template::MoeOrder,
        Template::MoeSum => shaders::Template::MoeSum,
        Template::SamplePartial => shaders::Template::SamplePartial,
        Template::SampleBins => shaders::Template::SampleBins,
        Template::SampleGather => shaders::Template::SampleGather,
        Template::SampleFilter => shaders::Template::SampleFilter,
        Template::SampleFinal => shaders::Template::SampleFinal,
    }
}

fn weight_format(format: Format) -> shaders::WeightFormat {
    match format {
        Format::F32 => shaders::WeightFormat::F32,
        Format::F16 => shaders::WeightFormat::F16,
        Format::Bf16 => shaders::WeightFormat::Bf16,
        Format::Affine { bits, group, scales } => {
            let scales = match scales {
                ScaleType::F16 => shaders::ScaleType::F16,
                ScaleType::Bf16 => shaders::ScaleType::Bf16,
                ScaleType::F32 => shaders::ScaleType::F32,
            };
            shaders::WeightFormat::Affine { bits, group, scales }
        }
        Format::Mxfp4 => shaders::WeightFormat::Mxfp4,
        Format::Mxfp8 => shaders::WeightFormat::Mxfp8,
        Format::Nvfp4 { global } => shaders::WeightFormat::Nvfp4 { global },
        Format::K(k) => shaders::WeightFormat::K(match k {
            KFormat::Q2K => shaders::KFormat::Q2K,
            KFormat::Q3K => shaders::KFormat::Q3K,
            KFormat::Q4K => shaders::KFormat::Q4K,
            KFormat::Q5K => shaders::KFormat::Q5K,
            KFormat::Q6K => shaders::KFormat::Q6K,
            KFormat::Iq4Nl => shaders::KFormat::Iq4Nl,
            KFormat::Iq4Xs => shaders::KFormat::Iq4Xs,
        }),
    }
}

fn epilogue_op(op: &EpilogueOp) -> shaders::EpilogueOp {
    match *op {
        EpilogueOp::Bias(n) => shaders::EpilogueOp::Bias(n),
        EpilogueOp::Add(n) => shaders::EpilogueOp::Add(n),
        EpilogueOp::AddOut => shaders::EpilogueOp::AddOut,
        EpilogueOp::Mul(n) => shaders::EpilogueOp::Mul(n),
        EpilogueOp::Silu => shaders::EpilogueOp::Silu,
        EpilogueOp::Gelu => shaders::EpilogueOp::Gelu,
        EpilogueOp::SiluMulPairs => shaders::EpilogueOp::SiluMulPairs,
        EpilogueOp::GeluMulPairs => shaders::EpilogueOp::GeluMulPairs,
        EpilogueOp::Scale => shaders::EpilogueOp::Scale,
        EpilogueOp::Softcap => shaders::EpilogueOp::Softcap,
        EpilogueOp::RopeKv => shaders::EpilogueOp::RopeKv,
        EpilogueOp::Normed => shaders::EpilogueOp::Normed,
    }
}

fn constant(value: Const) -> shaders::Const {
    match value {
        Const::U32(n) => shaders::Const::U32(n),
        Const::F32(n) => shaders::Const::F32(n),
    }
}
