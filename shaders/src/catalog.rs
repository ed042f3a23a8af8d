//! The catalogue: which slots each template has, what fills them, its bindings and its grid.

use crate::consts::{Consts, add_weight, has_experts, resolve};
use crate::epilogue;
use crate::files::file;
use crate::link::{LinkError, Modules, Source, join};
use crate::spec::{
    Access, BindingInfo, EpilogueOp, GridRule, GridUnit, KFormat, KernelSpec, LinkedKernel, Prologue, Role, Rows,
    ScaleType, Template, Tier, WeightFormat,
};
use crate::{cluster, flash, unit_coop, unit_half, unit_int8};
use std::collections::BTreeMap;

/// Bytes of workgroup memory that every target has (WebGPU guarantees 16 KiB, every GPU in reach has 32).
pub(crate) const MAX_WORKGROUP_BYTES: u32 = 32 << 10;

/// Links a kernel. Equal specs give equal text.
pub fn link(spec: &KernelSpec) -> Result<LinkedKernel, LinkError> {
    let mut consts = resolve(spec)?;
    let slots = slots(spec, &mut consts)?;
    check_workgroup_memory(spec, &consts)?;
    let header = format!("{}{}{}", enable(spec, &consts), title(spec), consts.header());
    let root = source(&format!("kernels/{}.wgsl", spec.template));
    let lib = |name: &str| {
        let path = format!("lib/{name}.wgsl");
        file(&path).map(|text| Source::new(path, text))
    };
    let wgsl = join(&header, &root, &Modules { lib: &lib, slots })?;
    let workgroup = if spec.template == Template::Matmul { 256 } else { consts.u32("WG") };
    Ok(LinkedKernel { wgsl, workgroup_size: [workgroup, 1, 1], bindings: bindings(spec) })
}

/// How many workgroups a kernel takes. An invalid spec (see [`link`]) has none.
pub fn grid(spec: &KernelSpec) -> Result<GridRule, LinkError> {
    let c = resolve(spec)?;
    let rows = match spec.rows {
        Rows::Tokens => GridUnit::Tokens,
        Rows::Wanted => GridUnit::Rows,
    };
    let rule = |per, unit_div, times| GridRule { per, each: 1, unit_div, more: 0, times };
    Ok(match spec.template {
        Template::Embed => rule(GridUnit::Tokens, 1, 1),
        Template::RopeKv => rule(GridUnit::Tokens, 1, c.u32("ROPE_WGS")),
        Template::Attention => rule(GridUnit::Tiles, 1, c.u32("N_HEADS")),
        Template::AttentionCoop | Template::AttentionDecode => {
            rule(GridUnit::Tiles, 1, c.u32("N_HEADS") / c.u32("HEADS"))
        }
        Template::AttentionCombine => rule(GridUnit::Tokens, 1, c.u32("N_HEADS")),
        Template::GatherRows => rule(GridUnit::Rows, 1, 1),
        Template::RmsNorm => rule(rows, 1, c.u32("RUNS")),
        Template::SampleFinal | Template::MoeRoute => rule(rows, 1, 1),
        Template::MoeSum => rule(rows, 1, c.u32("N_COLS").div_ceil(c.u32("WG"))),
        Template::Matvec if has_experts(spec) => {
            rule(rows, 1, c.u32("TOP_K") * c.u32("N").div_ceil(c.u32("ROWS_PER_WG")))
        }
        Template::Matvec => rule(rows, c.u32("M_MAX"), c.u32("N").div_ceil(c.u32("ROWS_PER_WG"))),
        Template::Matmul | Template::MatmulCoop => {
            let tiles = rule(rows, c.u32("TILE_M"), c.u32("N").div_ceil(c.u32("TILE_N")));
            // How many products an expert has is known on the GPU alone.
            let experts = has_experts(spec).then(|| (c.u32("TOP_K"), c.u32("EXPERTS")));
            experts.map_or(tiles, |(each, more)| GridRule { each, more, ..tiles })
        }
        Template::MoeOrder => rule(GridUnit::One, 1, c.u32("EXPERTS")),
        Template::Map => {
            rule(rows, 1, (c.u32("N_COLS") / epilogue::columns_per_out(&spec.epilogue)).div_ceil(c.u32("WG")))
        }
        Template::SamplePartial => rule(rows, 1, c.u32("N").div_ceil(c.u32("BLOCK"))),
        Template::SampleFilter => rule(GridUnit::Filtered, 1, 1),
        Template::SampleBins | Template::SampleGather => {
            rule(GridUnit::Filtered, 1, c.u32("N").div_ceil(c.u32("BLOCK")))
        }
    })
}

/// The first lines of a linked module: what was asked for.
fn title(spec: &KernelSpec) -> String {
    let weight = spec.weight.map_or(String::new(), |format| format!(", weight {format}"));
    let prologue =
        if spec.prologue == Prologue::None { String::new() } else { format!(", prologue {}", spec.prologue) };
    let epilogue = spec.epilogue.iter().map(EpilogueOp::to_string).collect::<Vec<_>>().join(", ");
    let epilogue = if epilogue.is_empty() { epilogue } else { format!(", epilogue {epilogue}") };
    format!("// {}: rows {}{weight}{prologue}{epilogue}, tier {}\n\n", spec.template, spec.rows, spec.tier)
}

fn source(path: &str) -> Source {
    Source::new(path, file(path).expect("the catalogue names files that a test finds embedded"))
}

/// The extensions of WGSL that a kernel takes.
fn enable(spec: &KernelSpec, consts: &Consts) -> &'static str {
    match (uses_half(spec, consts), spec.template) {
        (_, Template::MatmulCoop | Template::AttentionCoop) => "enable f16;\nenable wgpu_cooperative_matrix;\n\n",
        (true, _) => "enable f16;\n\n",
        (false, _) => "",
    }
}

/// Whether a kernel calculates in half precision.
fn uses_half(spec: &KernelSpec, consts: &Consts) -> bool {
    match spec.template {
        Template::Matvec => {
            consts.u32("HALF") == 1 || consts.u32("OUT_HALF") == 1 || spec.epilogue.contains(&EpilogueOp::Normed)
        }
        Template::MatmulCoop | Template::AttentionCoop => true,
        template if may_leave_half(template) => consts.u32("OUT_HALF") == 1,
        _ => false,
    }
}

fn attends(template: Template) -> bool {
    use Template::{Attention, AttentionCombine, AttentionCoop, AttentionDecode};
    matches!(template, Attention | AttentionCoop | AttentionDecode | AttentionCombine)
}

fn multiplies(template: Template) -> bool {
    matches!(template, Template::Matvec | Template::Matmul | Template::MatmulCoop)
}

/// Whether a template's result may lie in half rows.
fn may_leave_half(template: Template) -> bool {
    matches!(template, Template::Matvec | Template::MatmulCoop | Template::RmsNorm) || attends(template)
}

fn is_tiled(template: Template) -> bool {
    matches!(template, Template::Matmul | Template::MatmulCoop)
}

fn has_weight(template: Template) -> bool {
    template == Template::Embed || multiplies(template)
}

fn has_epilogue(template: Template) -> bool {
    multiplies(template) || matches!(template, Template::Map | Template::RmsNorm | Template::MoeSum)
}

/// What fills a spec's slots. Adds the numbers that providers read.
fn slots(spec: &KernelSpec, consts: &mut Consts) -> Result<BTreeMap<&'static str, Source>, LinkError> {
    let template = spec.template;
    let mut slots = BTreeMap::new();
    slots.insert("rows", source(&format!("slot/rows_{}.wgsl", spec.rows)));
    slots.insert("lanes", source(&format!("slot/lanes_{}.wgsl", spec.tier)));

    if has_weight(template) {
        let format = add_weight(spec, consts)?;
        bind_weight(format, consts.u32("W_COLS"), &mut slots);
    } else if spec.weight.is_some() {
        return Err(LinkError::BadWeight {
            template,
            weight: spec.weight,
            why: "the template has no weight slot".into(),
        });
    }

    if template == Template::Matvec {
        let experts = if has_experts(spec) { "slot/experts_routed.wgsl" } else { "slot/experts_none.wgsl" };
        slots.insert("experts", source(experts));
        if consts.u32("HALF") == 1 {
            bind_pairs(spec, consts.u32("W_COLS"), &mut slots)?;
            if consts.u32("INT8") == 1 {
                bind_bytes(spec, &mut slots)?;
                slots.insert("unit", unit_int8::generate(consts));
            } else {
                slots.insert("unit", unit_half::generate(consts));
            }
        } else {
            slots.insert("unit", source("slot/unit_single.wgsl"));
        }
    }
    if template == Template::MatmulCoop {
        let rows = consts.u32("TILE_M") + consts.u32("TILE_N");
        bind_halves(consts, rows * (consts.u32("TILE_K") + 8), &mut slots);
        // As providers of pairs have it: 16 columns a block of codes of 8 bits, 32 of others.
        let eights = match spec.weight {
            Some(WeightFormat::F16 | WeightFormat::Bf16) => 1,
            _ if consts.u32("W_BITS") == 8 => 2,
            _ => 4,
        };
        if eights > 1 {
            bind_pairs(spec, consts.u32("W_COLS"), &mut slots)?;
        }
        slots.insert("eights", source(if eights > 1 { "slot/eights_pairs.wgsl" } else { "slot/eights_half.wgsl" }));
        slots.insert("unit", unit_coop::generate(consts, eights));
    }
    if is_tiled(template) {
        let tile = if has_experts(spec) { "slot/tile_experts.wgsl" } else { "slot/tile_rows.wgsl" };
        slots.insert("tile", source(tile));
    }
    if multiplies(template) {
        let whole = consts.u32("K").is_multiple_of(4);
        let by_eights = match template {
            Template::Matvec => consts.u32("HALF") == 1,
            template => template == Template::MatmulCoop,
        };
        let x = match (by_eights, whole) {
            (true, _) if consts.u32("X_HALF") == 1 => "slot/x_pairs_half.wgsl",
            (true, _) => "slot/x_pairs_single.wgsl",
            (false, true) => "slot/x_vec4.wgsl",
            (false, false) => "slot/x_ragged.wgsl",
        };
        slots.insert("x", source(x));
        let prologue = match (spec.prologue, whole) {
            (Prologue::None, _) => "slot/prologue_none.wgsl",
            (Prologue::RmsNorm, true) => "slot/prologue_rms_norm.wgsl",
            (Prologue::RmsNorm, false) => "slot/prologue_rms_norm_ragged.wgsl",
            (Prologue::RmsNormParts, _) => "slot/prologue_rms_norm_parts.wgsl",
        };
        slots.insert("prologue", source(prologue));
    }
    if has_epilogue(template) || attends(template) {
        let half = may_leave_half(template) && consts.u32("OUT_HALF") == 1;
        slots.insert("out", source(if half { "slot/out_half.wgsl" } else { "slot/out_single.wgsl" }));
    }
    if template == Template::RopeKv {
        let normed = spec.prologue == Prologue::RmsNorm;
        slots.insert("heads", source(if normed { "slot/heads_rms_norm.wgsl" } else { "slot/heads_plain.wgsl" }));
    }
    let takes = match spec.prologue {
        Prologue::None => true,
        Prologue::RmsNorm => matches!(template, Template::Matvec | Template::RopeKv),
        Prologue::RmsNormParts => template == Template::Matvec,
    };
    if !takes {
        return Err(LinkError::NoPrologue { template });
    }

    if has_epilogue(template) {
        let n_cols = match template {
            Template::Map | Template::MoeSum => consts.u32("N_COLS"),
            Template::RmsNorm => consts.u32("RUNS").saturating_mul(consts.u32("N_COLS")),
            _ => consts.u32("N"),
        };
        consts.add("OUT_COLS", n_cols / epilogue::columns_per_out(&spec.epilogue));
        slots.insert("epilogue", epilogue::generate(spec)?);
    } else if let Some(op) = spec.epilogue.first() {
        return Err(LinkError::BadEpilogue { template, op: *op, why: "the template has no epilogue" });
    }

    if template == Template::AttentionCoop {
        bind_halves(consts, consts.u32("KV_BLOCK") * (consts.u32("HEAD_DIM") + 8), &mut slots);
        slots.insert("unit", flash::generate(consts));
    }
    if template == Template::AttentionDecode {
        slots.insert("cluster", cluster::generate(consts));
    }
    if matches!(template, Template::Attention | Template::AttentionCoop | Template::AttentionDecode) {
        let ragged = if consts.u32("HEAD_DIM").is_multiple_of(8) { "" } else { "_ragged" };
        slots.insert("kv", source(&format!("slot/kv_{}{ragged}.wgsl", kv_name(consts, true))));
    }
    if template == Template::RopeKv || spec.epilogue.contains(&EpilogueOp::RopeKv) {
        slots.insert("kv_store", source(&format!("slot/kv_store_{}.wgsl", kv_name(consts, false))));
    }
    if template == Template::SampleFilter {
        let whole = consts.u32("N").is_multiple_of(4);
        slots.insert("logits", source(if whole { "slot/logits_vec4.wgsl" } else { "slot/logits_ragged.wgsl" }));
    }
    Ok(slots)
}

/// The type of keys and values in the names of providers. Codes of all sizes are written by one.
fn kv_name(consts: &Consts, by_bits: bool) -> &'static str {
    match consts.u32("KV_BITS") {
        32 => "f32",
        16 => "f16",
        _ if !by_bits => "affine",
        8 => "affine8",
        _ => "affine4",
    }
}

/// Binds the slots `weight`, `half` and `scale`. Rows that do not begin on 16 bytes take the ragged providers.
fn bind_weight(format: WeightFormat, cols: u32, slots: &mut BTreeMap<&'static str, Source>) {
    let (weight, half, scale) = match format {
        WeightFormat::F32 if cols.is_multiple_of(4) => ("weight_f32", None, None),
        WeightFormat::F32 => ("weight_f32_ragged", None, None),
        WeightFormat::F16 | WeightFormat::Bf16 => {
            let half = if format == WeightFormat::F16 { "half_f16" } else { "half_bf16" };
            (if cols.is_multiple_of(8) { "weight_half" } else { "weight_half_ragged" }, Some(half), None)
        }
        WeightFormat::Affine { bits, scales, .. } => {
            let weight = if bits == 4 { "weight_affine4" } else { "weight_planes" };
            match scales {
                ScaleType::F16 => (weight, Some("half_f16"), Some("scale_half")),
                ScaleType::Bf16 => (weight, Some("half_bf16"), Some("scale_half")),
                ScaleType::F32 => (weight, None, Some("scale_f32")),
            }
        }
        WeightFormat::Mxfp4 => ("weight_fp4", None, Some("scale_e8m0")),
        WeightFormat::Mxfp8 => ("weight_fp8", None, Some("scale_e8m0")),
        WeightFormat::Nvfp4 { global: false } => ("weight_fp4", None, Some("scale_e4m3")),
        WeightFormat::Nvfp4 { global: true } => ("weight_fp4", None, Some("scale_e4m3_rows")),
        WeightFormat::K(k) => {
            let scale = match k {
                KFormat::Q2K => "scale_q2_k",
                KFormat::Q4K | KFormat::Q5K => "scale_q4_k",
                KFormat::Q3K | KFormat::Q6K => "scale_q6_k",
                KFormat::Iq4Nl => "scale_iq4_nl",
                KFormat::Iq4Xs => "scale_iq4_xs",
            };
            (if k == KFormat::Q4K { "weight_affine4" } else { "weight_planes" }, None, Some(scale))
        }
    };
    let codes = match format {
        WeightFormat::K(k) if has_table(k) => "codes_table",
        _ => "codes_unsigned",
    };
    slots.insert("codes", source(&format!("slot/{codes}.wgsl")));
    for (slot, provider) in [("weight", Some(weight)), ("half", half), ("scale", scale)] {
        if let Some(provider) = provider {
            slots.insert(slot, source(&format!("slot/{provider}.wgsl")));
        }
    }
}

/// Whether codes are places in a table.
fn has_table(k: KFormat) -> bool {
    matches!(k, KFormat::Iq4Nl | KFormat::Iq4Xs)
}

/// Binds the slot `halves` of so many numbers.
fn bind_halves(consts: &mut Consts, n_numbers: u32, slots: &mut BTreeMap<&'static str, Source>) {
    consts.add("TILE_NUMBERS", n_numbers);
    // Metal, whose matrices are the smaller ones, loads them through pointers to numbers.
    let halves = if consts.u32("SIDE") == 8 { "slot/halves_single.wgsl" } else { "slot/halves_quads.wgsl" };
    slots.insert("halves", source(halves));
}

/// Binds the slot `pairs`.
fn bind_pairs(spec: &KernelSpec, cols: u32, slots: &mut BTreeMap<&'static str, Source>) -> Result<(), LinkError> {
    let bad = |why: &str| LinkError::BadWeight { template: spec.template, weight: spec.weight, why: why.into() };
    let pairs = match spec.weight {
        Some(WeightFormat::Affine { bits: 4, .. } | WeightFormat::K(KFormat::Q4K)) => "slot/pairs_affine4.wgsl",
        Some(WeightFormat::Affine { .. }) => "slot/pairs_planes.wgsl",
        Some(WeightFormat::K(k)) if has_table(k) => "slot/pairs_table.wgsl",
        Some(WeightFormat::K(_)) => "slot/pairs_planes.wgsl",
        Some(WeightFormat::Mxfp4 | WeightFormat::Nvfp4 { .. }) => "slot/pairs_fp4.wgsl",
        Some(WeightFormat::Mxfp8) => "slot/pairs_fp8.wgsl",
        _ => return Err(bad("there are no half-precision products (HALF) of this format")),
    };
    if !cols.is_multiple_of(32) {
        return Err(bad("half-precision products (HALF) take rows of whole blocks of 32 columns"));
    }
    slots.insert("pairs", source(pairs));
    Ok(())
}

/// Binds the slot `bytes`.
fn bind_bytes(spec: &KernelSpec, slots: &mut BTreeMap<&'static str, Source>) -> Result<(), LinkError> {
    let bytes = match spec.weight {
        Some(WeightFormat::Affine { bits: 4, .. } | WeightFormat::K(KFormat::Q4K)) => "slot/bytes_affine4.wgsl",
        Some(WeightFormat::Affine { bits: 8, .. }) => "slot/bytes_affine8.wgsl",
        _ => {
            let why = "there are no products in whole numbers (INT8) of this format".into();
            return Err(LinkError::BadWeight { template: spec.template, weight: spec.weight, why });
        }
    };
    slots.insert("bytes", source(bytes));
    Ok(())
}

/// The buffers of a kernel, by group and number.
fn bindings(spec: &KernelSpec) -> Vec<BindingInfo> {
    use Access::{Read, ReadWrite};
    let info = |role, group, binding, access| BindingInfo { role, group, binding, access };
    let mut list = vec![info(Role::Step, 0, 0, Read)];
    list.push(match spec.template {
        Template::Embed => info(Role::Sampled, 0, 1, Read),
        Template::RopeKv | Template::Attention | Template::AttentionCoop | Template::AttentionDecode => {
            info(Role::Q, 0, 1, Read)
        }
        Template::MoeOrder => info(Role::Route, 0, 3, Read),
        // Adjusted in place.
        Template::SamplePartial => info(Role::X, 0, 1, ReadWrite),
        _ => info(Role::X, 0, 1, Read),
    });
    if spec.template == Template::RopeKv {
        list.extend([info(Role::K, 0, 2, Read), info(Role::V, 0, 3, Read), info(Role::Freqs, 1, 0, Read)]);
    }
    match spec.template {
        template if is_tiled(template) && has_experts(spec) => list.push(info(Role::Order, 0, 3, Read)),
        Template::Matvec if has_experts(spec) => list.push(info(Role::Route, 0, 3, Read)),
        Template::MoeSum => list.push(info(Role::Route, 0, 3, Read)),
        _ => {}
    }
    match spec.template {
        template if has_weight(template) => list.push(info(Role::Weight, 1, 0, Read)),
        Template::RmsNorm => list.push(info(Role::NormWeight, 1, 0, Read)),
        Template::SamplePartial => list.push(info(Role::Columns, 0, 2, Read)),
        Template::SampleBins | Template::SampleGather | Template::SampleFinal => {
            list.push(info(Role::Parts, 0, 2, Read))
        }
        Template::SampleFilter => {
            list.extend([info(Role::Parts, 0, 2, Read), info(Role::Bins, 0, 3, Read), info(Role::Gathered, 0, 4, Read)])
        }
        _ => {}
    }
    match spec.prologue {
        Prologue::None => {}
        Prologue::RmsNorm => list.push(info(Role::NormWeight, 1, 1, Read)),
        Prologue::RmsNormParts => list.push(info(Role::Squares, 0, 2, Read)),
    }
    list.push(info(Role::Out, 2, 0, ReadWrite));
    list.extend(epilogue::bindings(&spec.epilogue));
    match spec.template {
        Template::RopeKv => list.push(info(Role::Kv, 3, 0, ReadWrite)),
        Template::Attention | Template::AttentionCoop | Template::AttentionDecode => {
            list.extend([info(Role::Kv, 3, 0, Read), info(Role::PageTable, 3, 1, Read)])
        }
        Template::SamplePartial | Template::SampleGather => list.push(info(Role::Bins, 2, 1, ReadWrite)),
        Template::SampleFilter | Template::SampleFinal => list.push(info(Role::Columns, 2, 1, ReadWrite)),
        _ => {}
    }
    list
}

/// Bytes of workgroup memory, as the templates' comments count them.
fn workgroup_bytes(spec: &KernelSpec, c: &Consts) -> u32 {
    match spec.template {
        Template::Matvec => {
            let units = c.u32("ROWS_PER_WG") / c.u32("ROWS_PER_SUBGROUP") * c.u32("K_SPLIT");
            let lanes = if spec.tier == Tier::Plain { c.u32("WG") } else { 0 };
            let bytes = if c.u32("INT8") == 1 { 10 * 512 } else { 0 };
            let squares = 1 + c.u32("M_MAX") * (c.u32("ROWS_PER_WG") + c.u32("WG") / 4);
            // A table of 16, twice.
            let has_pairs = c.u32("HALF") == 1 && matches!(spec.weight, Some(WeightFormat::K(k)) if has_table(k));
            let pairs = if has_pairs { 32 } else { 0 };
            4 * (c.u32("M_MAX") * (c.u32("ROWS_PER_WG") * c.u32("K_SPLIT") + units) + lanes + squares + bytes + pairs)
        }
        Template::Matmul => {
            let products = if has_experts(spec) { c.u32("TILE_M") } else { 0 };
            4 * (c.u32("TILE_K") * (c.u32("TILE_M") + c.u32("TILE_N")) + products)
        }
        Template::MatmulCoop => {
            let tiles = 2 * (c.u32("TILE_M") + c.u32("TILE_N")) * (c.u32("TILE_K") + 8);
            let stage = 4 * c.u32("WG") / c.u32("LANES") * c.u32("SIDE") * c.u32("SIDE");
            // A table of 16, twice.
            let pairs = if matches!(spec.weight, Some(WeightFormat::K(k)) if has_table(k)) { 128 } else { 0 };
            tiles + stage + pairs + if has_experts(spec) { 4 * c.u32("TILE_M") } else { 0 }
        }
        Template::Attention => {
            let (queries, words) = (c.u32("Q_TILE"), c.u32("HEAD_DIM") / 2);
            let groups = c.u32("WG") / words;
            let token_groups = groups / groups.min(queries);
            let shared = if token_groups > 1 { token_groups * queries * words } else { 0 } + 1;
            let query_words = queries * c.u32("HEAD_DIM").next_multiple_of(8);
            4 * (query_words + queries * c.u32("KV_BLOCK") + c.u32("KV_BLOCK") + queries * 18) + 16 * shared
        }
        Template::AttentionCoop => {
            let block = c.u32("KV_BLOCK");
            c.u32("HEADS") * c.u32("Q_TILE") * (4 * (block + 4) + 2 * (block + 8))
                + 2 * block * (c.u32("HEAD_DIM") + 8)
                + 16
        }
        Template::AttentionDecode => 4 * (c.u32("WG") / 8) * (c.u32("HEAD_DIM") + 2 * c.u32("HEADS")),
        Template::AttentionCombine => 8 * c.u32("PARTS"),
        Template::RopeKv => {
            let squares = if spec.prologue == Prologue::None { 0 } else { 4 * c.u32("WG") };
            4 * c.u32("ROT_DIM") + squares + if c.u32("KV_BITS") < 16 { 8 * c.u32("WG") } else { 0 }
        }
        Template::RmsNorm => 4 * c.u32("WG"),
        Template::SamplePartial => 8 * c.u32("BLOCK") + 16 * c.u32("WG"),
        Template::SampleBins => 12 * 256 + 4 * c.u32("WG"),
        Template::SampleGather => 4 * c.u32("BLOCK") + 12 * c.u32("WG") + 96,
        Template::SampleFilter => 12 * 256 + 44 * c.u32("WG") + 128,
        Template::SampleFinal => 16 * c.u32("WG"),
        Template::MoeRoute => 4 * (c.u32("EXPERTS") + c.u32("TOP_K")),
        Template::MoeOrder => 4 * (c.u32("EXPERTS") + c.u32("WG") + 1),
        Template::Embed | Template::GatherRows | Template::Map | Template::MoeSum => 0,
    }
}

fn check_workgroup_memory(spec: &KernelSpec, consts: &Consts) -> Result<(), LinkError> {
    let n_bytes = workgroup_bytes(spec, consts);
    if n_bytes > MAX_WORKGROUP_BYTES {
        return Err(LinkError::TooMuchWorkgroupMemory {
            template: spec.template,
            n_bytes,
            limit_bytes: MAX_WORKGROUP_BYTES,
        });
    }
    Ok(())
}
