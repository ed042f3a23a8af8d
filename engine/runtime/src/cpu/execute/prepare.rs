//! From a plan to launches: weights held where they lie, and what each dispatch does, with its numbers and places looked up once.

use super::{AttentionNumbers, ExpertNumbers, Held, Launch, RopeNumbers, Tail, WeightSource, Work};
use crate::cpu::pages::PageLayout;
use crate::cpu::weight::{FloatType, Format as CpuFormat, Segment, SmallFloat, Weight};
use crate::error::RuntimeError;
use ingot_ir::kernel::{EPILOGUE_ROLES, EpilogueOp, KernelSpec, PART_WORDS, Prologue, Role, Template};
use ingot_ir::plan::{Binding, Bound, Dispatch, Plan};
use ingot_ir::weight::{Format, Layout, ScaleType};
use std::sync::Arc;

fn float_type(format: Format) -> Option<FloatType> {
    match format {
        Format::F32 => Some(FloatType::F32),
        Format::F16 => Some(FloatType::F16),
        Format::Bf16 => Some(FloatType::Bf16),
        _ => None,
    }
}

/// Which of a tensor's `n_global` global scales belong to a segment: rows within one part of the tensor, or whole parts.
fn factor_range(
    segment: &ingot_ir::plan::Segment,
    n_tensor_rows: usize,
    n_global: usize,
) -> Option<std::ops::Range<usize>> {
    let part = n_tensor_rows.checked_div(n_global).filter(|part| *part > 0)?;
    let (first, end) = (segment.first_row as usize, (segment.first_row + segment.n_rows) as usize);
    let (from, until) = (first / part, end.div_ceil(part));
    let whole = first.is_multiple_of(part) && end.is_multiple_of(part);
    (whole || until - from == 1).then_some(from..until)
}

/// Finds a weight's rows in the checkpoint.
pub(super) fn hold(weight: &ingot_ir::plan::PlanWeight, source: &Arc<dyn WeightSource>) -> Result<Held, RuntimeError> {
    if weight.layout == Layout::Vector {
        return Ok(Held::Vector(source.vector(weight)));
    }
    let n_cols = weight.n_cols as usize;
    let format = match weight.format {
        Format::Affine { bits, group, scales } => {
            let scale = match scales {
                ScaleType::F16 => FloatType::F16,
                ScaleType::Bf16 => FloatType::Bf16,
                ScaleType::F32 => FloatType::F32,
            };
            CpuFormat::Affine { bits: u32::from(bits), group: usize::from(group), scale }
        }
        Format::Mxfp4 => CpuFormat::SmallFloat(SmallFloat::Mxfp4),
        Format::Mxfp8 => CpuFormat::SmallFloat(SmallFloat::Mxfp8),
        Format::Nvfp4 { .. } => CpuFormat::SmallFloat(SmallFloat::Nvfp4),
        Format::K(k) => CpuFormat::K(k),
        float => CpuFormat::Float(float_type(float).unwrap_or_else(|| unreachable!("the others are matched above"))),
    };
    let (row_bytes, (scale_bytes, bias_bytes)) = (format.row_bytes(n_cols), format.scale_bytes(n_cols));
    let find = |segment: &ingot_ir::plan::Segment| {
        if segment.order.is_some() {
            return Err(RuntimeError::Cpu(format!("it reads the rows of {} in their own order", segment.tensor)));
        }
        let found = source.tensor(&segment.tensor);
        let tensor =
            found.ok_or_else(|| RuntimeError::Cpu(format!("the checkpoint has no tensor {}", segment.tensor)))?;
        let rows = |bytes: &[u8], row_bytes: usize| -> Option<&'static [u8]> {
            let first = segment.first_row as usize * row_bytes;
            let part = bytes.get(first..first + segment.n_rows as usize * row_bytes)?;
            // SAFETY: the bytes are borrowed from `source`, of which the backend keeps an Arc that is dropped after
            // every segment; an Arc gives shared access only, so the bytes neither move nor change meanwhile.
            Some(unsafe { std::slice::from_raw_parts(part.as_ptr(), part.len()) })
        };
        let parts = (rows(tensor.codes, row_bytes), rows(tensor.scales, scale_bytes), rows(tensor.biases, bias_bytes));
        let (Some(codes), Some(scales), Some(biases)) = parts else {
            return Err(RuntimeError::Cpu(format!("tensor {} is smaller than the plan says", segment.tensor)));
        };
        let mut factors: &'static [u8] = &[];
        if weight.format.has_global() {
            let range = factor_range(segment, tensor.codes.len() / row_bytes.max(1), tensor.global.len() / 4);
            let part = range.and_then(|range| tensor.global.get(4 * range.start..4 * range.end)).ok_or_else(|| {
                RuntimeError::Cpu(format!("global scales of tensor {} do not go with the plan's rows", segment.tensor))
            })?;
            // SAFETY: as above.
            factors = unsafe { std::slice::from_raw_parts(part.as_ptr(), part.len()) };
        }
        Ok(Segment { n_rows: segment.n_rows as usize, format, codes, scales, biases, factors })
    };
    let segments = weight.segments.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    // SAFETY of the later uses: sizes are checked here once.
    Weight::new(n_cols, &segments, weight.interleaved).map_err(|e| RuntimeError::Cpu(e.to_string()))?;
    Ok(Held::Matrix { n_cols, segments, interleaved: weight.interleaved })
}

/// Looks up everything that a dispatch needs.
pub(super) fn prepare(plan: &Plan, dispatch: &Dispatch) -> Result<Launch, RuntimeError> {
    let spec = &plan.kernels[dispatch.kernel].spec;
    let operands = plan.operands_of(dispatch);
    let bad = |what: &str| RuntimeError::Cpu(format!("a {} without {what}", spec.template));
    let operand = |role: Role| {
        operands.iter().find(|o: &&Bound| o.role == role).map(|o| o.binding).ok_or_else(|| bad(role.name()))
    };
    let n = |name: &str| spec.u32(name).map(|n| n as usize).ok_or_else(|| bad(name));
    let f = |name: &str| spec.f32(name).ok_or_else(|| bad(name));
    let layout = || -> Result<PageLayout, RuntimeError> {
        Ok(PageLayout { kv: plan.kv_type, n_kv_heads: n("N_KV_HEADS")?, head_dim: n("HEAD_DIM")? })
    };
    let kv = || match operand(Role::Kv)? {
        Binding::Kv(layer) => Ok(layer.0 as usize),
        _ => Err(bad("pages")),
    };
    let norm = || match spec.prologue {
        Prologue::None => Ok(None),
        Prologue::RmsNorm => Ok(Some((operand(Role::NormWeight)?, f("EPS")?))),
        Prologue::RmsNormParts => Err(RuntimeError::Cpu("it has no half rows".into())),
    };
    let (work, stride) = match spec.template {
        Template::Embed => {
            let (weight, row_first, scale) =
                (operand(Role::Weight)?, n("ROW_FIRST")?, spec.f32("SCALE").unwrap_or(1.0));
            (Work::Embed { weight, row_first, scale }, n("N_COLS")?)
        }
        Template::RmsNorm => {
            let columns = (n("X_STRIDE")?, n("X_AT")?);
            let (x, weight) = (operand(Role::X)?, operand(Role::NormWeight)?);
            let n_runs = n("RUNS")?;
            (Work::RmsNorm { x, columns, n_runs, weight, eps: f("EPS")? }, n_runs.saturating_mul(n("N_COLS")?))
        }
        Template::Matvec | Template::Matmul => {
            let norm = norm()?;
            let n_out = n("N")? / spec.columns_per_out() as usize;
            if spec.u32("EXPERTS").is_some() {
                let numbers = ExpertNumbers {
                    n_experts: n("EXPERT_COUNT")?,
                    first_expert: n("EXPERT_FIRST")?,
                    top_k: n("TOP_K")?,
                    each: n("X_EACH")? == 1,
                };
                let [x, route, weight] = [operand(Role::X)?, operand(Role::Route)?, operand(Role::Weight)?];
                let work = Work::ExpertLinear { x, route, weight, norm, numbers };
                let tail = spec.epilogue.iter().map(|op| tail(spec, *op, &operand)).collect::<Result<_, _>>()?;
                return Ok(Launch { work, rows: spec.rows, tail, out: operand(Role::Out)?, stride: n_out });
            }
            let (stride, at) = (n("OUT_STRIDE")?, n("OUT_AT")?);
            // Operands have the result's columns alone, also where those are a part of wider rows.
            (Work::Linear { x: operand(Role::X)?, weight: operand(Role::Weight)?, norm, stride, at }, n_out)
        }
        Template::RopeKv => {
            let numbers = RopeNumbers {
                n_heads: n("N_HEADS")?,
                layout: layout()?,
                rot_dim: n("ROT_DIM")?,
                neighbours: spec.u32("NEIGHBOURS") == Some(1),
                columns: [(n("Q_STRIDE")?, n("Q_AT")?), (n("K_STRIDE")?, n("K_AT")?), (n("V_STRIDE")?, n("V_AT")?)],
                kv_group: n("KV_GROUP")?,
                scale: f("ROPE_SCALE")?,
            };
            let stride = numbers.n_heads * numbers.layout.head_dim;
            let [q, k, v, freqs] = [operand(Role::Q)?, operand(Role::K)?, operand(Role::V)?, operand(Role::Freqs)?];
            (Work::RopeKv { q, k, v, freqs, norms: norm()?, kv: kv()?, numbers }, stride)
        }
        Template::MatmulCoop | Template::AttentionCoop => {
            return Err(RuntimeError::Cpu("it has no matrix units".into()));
        }
        Template::AttentionDecode | Template::AttentionCombine => {
            return Err(RuntimeError::Cpu("it has no attention in parts".into()));
        }
        Template::Attention => {
            let numbers = AttentionNumbers {
                n_heads: n("N_HEADS")?,
                layout: layout()?,
                scale: f("SCALE")?,
                q_tile: n("Q_TILE")?,
                window: n("WINDOW")?,
                keep: n("KEEP")?,
                softcap: f("SOFTCAP")?,
                max_pages: n("MAX_PAGES")?,
            };
            let stride = numbers.n_heads * numbers.layout.head_dim;
            let Binding::PageTable(group) = operand(Role::PageTable)? else { return Err(bad("page table")) };
            (Work::Attention { q: operand(Role::Q)?, kv: kv()?, page_table: group.0 as usize, numbers }, stride)
        }
        Template::MoeRoute => {
            let (n_experts, top_k) = (n("EXPERTS")?, n("TOP_K")?);
            let renormalize = n("RENORMALIZE")? == 1;
            (Work::MoeRoute { x: operand(Role::X)?, n_experts, top_k, renormalize }, 2 * top_k)
        }
        Template::MoeSum => {
            (Work::MoeSum { x: operand(Role::X)?, route: operand(Role::Route)?, top_k: n("TOP_K")? }, n("N_COLS")?)
        }
        Template::GatherRows => (Work::Gather { x: operand(Role::X)?, n_cols: n("N_COLS")? }, n("N_COLS")?),
        Template::Map => {
            let n_cols = n("N_COLS")?;
            (Work::Map { x: operand(Role::X)?, n_cols }, n_cols / spec.columns_per_out() as usize)
        }
        Template::SamplePartial => {
            let (width, block) = (n("N")?, n("BLOCK")?);
            let stride = width.div_ceil(block) * PART_WORDS as usize;
            (Work::ArgmaxPartial { x: operand(Role::X)?, n: width, block }, stride)
        }
        Template::SampleFinal => {
            (Work::ArgmaxFinal { parts: operand(Role::Parts)?, n_blocks: n("N")?.div_ceil(n("BLOCK")?) }, 1)
        }
        Template::MoeOrder => return Err(RuntimeError::Cpu("it sorts products with experts itself".into())),
        Template::SampleBins | Template::SampleGather | Template::SampleFilter => {
            return Err(RuntimeError::Cpu("it chooses by more than the greatest elsewhere".into()));
        }
    };
    let tail = spec.epilogue.iter().map(|op| tail(spec, *op, &operand)).collect::<Result<_, _>>()?;
    Ok(Launch { work, rows: spec.rows, tail, out: operand(Role::Out)?, stride })
}

fn tail(
    spec: &KernelSpec,
    op: EpilogueOp,
    operand: &dyn Fn(Role) -> Result<Binding, RuntimeError>,
) -> Result<Tail, RuntimeError> {
    let nth = |ix: u8| {
        let role = EPILOGUE_ROLES.get(usize::from(ix)).copied();
        role.ok_or_else(|| RuntimeError::Cpu(format!("a {} with too many operands", spec.template))).and_then(operand)
    };
    let number =
        |name: &str| spec.f32(name).ok_or_else(|| RuntimeError::Cpu(format!("a {} without {name}", spec.template)));
    Ok(match op {
        EpilogueOp::Bias(ix) => Tail::Bias(nth(ix)?),
        EpilogueOp::Add(ix) => Tail::Add(nth(ix)?),
        EpilogueOp::Mul(ix) => Tail::Mul(nth(ix)?),
        EpilogueOp::AddOut => Tail::AddOut,
        EpilogueOp::Silu => Tail::Silu,
        EpilogueOp::Gelu => Tail::Gelu,
        EpilogueOp::SiluMulPairs => Tail::SiluMulPairs,
        EpilogueOp::GeluMulPairs => Tail::GeluMulPairs,
        EpilogueOp::Scale => Tail::Scale(number("FACTOR")?),
        EpilogueOp::Softcap => Tail::Softcap(number("CAP")?),
        EpilogueOp::RopeKv => return Err(RuntimeError::Cpu("it does not rotate in a product's epilogue".into())),
        EpilogueOp::Normed => return Err(RuntimeError::Cpu("it has no half rows".into())),
    })
}

/// Most epilogue ops of one kernel.
pub(super) const MAX_TAIL: usize = 8;

/// Numbers of a range that is written.
pub(super) fn out_len(out: Binding) -> usize {
    match out {
        Binding::Arena { n_bytes, .. } => n_bytes as usize / 4,
        _ => 0,
    }
}
