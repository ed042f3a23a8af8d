//! From groups to kernels: each group becomes one node of the kernel graph (an embedding one a part, a choice of ids several).
//! What differs by target (tile sizes, grids) comes from the target's table of tiles, else from the catalogue through
//! [`crate::link`].

mod builder;
mod experts;
pub mod tiles;

use crate::CompileError;
use crate::link;
use crate::pass::bucket::Bucket;
use crate::pass::group::{Group, Kind, Step};
use crate::pass::half_rows::is_half;
use crate::target::{MatrixUnits, TargetProfile};
use builder::{Builder, Spot};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::handle::Column;
use ingot_ir::kernel::{
    Access, BIN_WORDS, Const, EPILOGUE_ROLES, EpilogueOp, KernelGraph, KernelSpec, Operand, PART_WORDS, Place,
    Prologue, Role, Rows, Template, gathered_ids,
};
use ingot_ir::kv::{KvLayerId, KvType};
use ingot_ir::plan::history_tokens;
use ingot_ir::size::Dim;
use ingot_ir::weight::WeightId;

/// Logits that one workgroup of the first sampling kernels looks at.
const SAMPLE_BLOCK: u32 = 1024;

/// Makes the kernel graph of a bucket from groups in order.
pub fn run(
    graph: &Graph,
    groups: &[Group],
    target: &TargetProfile,
    bucket: &Bucket,
    max_context: u32,
) -> Result<KernelGraph, CompileError> {
    let max_pages = max_context.div_ceil(target.page_tokens);
    parts_are_products(graph, groups)?;
    let mut builder = Builder::new(graph, target, bucket);
    for group in groups {
        match &group.kind {
            Kind::Embed { embed: lookup, scale } => embed(&mut builder, group, *lookup, *scale)?,
            Kind::Norm { norm: of, added } => norm(&mut builder, group, *of, *added)?,
            Kind::Matrix { linear, template, norm, epilogue } => match graph.experts(*linear) {
                Some(numbers) => experts::products(&mut builder, group, *linear, *template, numbers, *norm, epilogue)?,
                None => matrix(&mut builder, group, *linear, *template, *norm, epilogue)?,
            },
            Kind::RopeKv { q, k, write, norms } => rope_kv(&mut builder, group, [*q, *k, *write], *norms)?,
            Kind::Attention => attention(&mut builder, group, max_pages)?,
            Kind::Gather => gather(&mut builder, group)?,
            Kind::Map { x, steps } => map(&mut builder, group, *x, steps)?,
            Kind::Route => experts::route(&mut builder, group)?,
            Kind::ExpertSum { sum, epilogue } => experts::sum(&mut builder, group, *sum, epilogue)?,
            Kind::Argmax => argmax(&mut builder, group, max_context)?,
        }
    }
    Ok(builder.finish())
}

/// Checks that every part of a concatenation is written by a matrix product, the one kernel that writes into wider rows.
fn parts_are_products(graph: &Graph, groups: &[Group]) -> Result<(), CompileError> {
    let mut seen = Column::new(graph.values.len(), false);
    for (_, value) in graph.values.iter() {
        let Op::Concat { parts } = &value.op else { continue };
        for &part in parts {
            let is_linear = |v: &ValueId| matches!(graph.values[*v].op, Op::Linear { .. });
            let is_product = groups.iter().any(|group| {
                matches!(&group.kind, Kind::Matrix { linear, .. } if is_linear(linear)) && group.result() == part
            });
            let is_concat = matches!(graph.values[part].op, Op::Concat { .. });
            if std::mem::replace(&mut seen[part], true) || !(is_product || is_concat) {
                let why = "a part of a concatenation must be a matrix product's result, and a part once".into();
                return Err(CompileError::NoKernel { value: part, op: graph.values[part].op.name(), why });
            }
        }
    }
    Ok(())
}

const fn read(role: Role, place: Place) -> Operand {
    Operand { role, access: Access::Read, place }
}

const fn write(role: Role, place: Place) -> Operand {
    Operand { role, access: Access::ReadWrite, place }
}

const STEP: Operand = read(Role::Step, Place::Step);

fn embed(b: &mut Builder<'_>, group: &Group, lookup: ValueId, scale: f32) -> Result<(), CompileError> {
    let result = group.result();
    let Op::Embed { parts } = &b.graph.values[lookup].op else { unreachable!("an embed group") };
    let out = b.spot_for(result);
    let mut first = 0;
    for part in parts {
        let weight = &b.graph.weights[*part];
        let mut spec = b.spec(Template::Embed, result);
        spec.weight = Some(weight.format);
        spec.set("N_COLS", Const::U32(weight.n_cols));
        spec.set("ROW_FIRST", Const::U32(first));
        spec.set("ROW_COUNT", Const::U32(weight.n_rows));
        if scale != 1.0 {
            spec.set("SCALE", Const::F32(scale));
        }
        first += weight.n_rows;
        let operands = vec![
            STEP,
            read(Role::Sampled, Place::Sampled),
            read(Role::Weight, Place::Weight(*part)),
            write(Role::Out, out.place),
        ];
        b.node(spec, operands, &group.members)?;
    }
    Ok(())
}

fn norm(b: &mut Builder<'_>, group: &Group, of: ValueId, added: Option<ValueId>) -> Result<(), CompileError> {
    let result = group.result();
    let Op::RmsNorm { x, weight, eps } = b.graph.values[of].op else { unreachable!("a norm group") };
    let input = b.spot_of(x);
    let mut spec = b.spec(Template::RmsNorm, result);
    let n_cols = b.graph.weights[weight].n_rows;
    for (name, number) in
        [("N_COLS", n_cols), ("RUNS", b.cols(x) / n_cols), ("X_STRIDE", input.stride), ("X_AT", input.at)]
    {
        spec.set(name, Const::U32(number));
    }
    spec.set("EPS", Const::F32(eps));
    let mut operands = vec![STEP, read(Role::X, input.place), read(Role::NormWeight, Place::Weight(weight))];
    let steps: Vec<Step> = added.map(Step::Add).into_iter().collect();
    epilogue(b, &mut spec, &mut operands, &steps, result)?;
    let out = if group.half {
        spec.set("OUT_HALF", Const::U32(1));
        b.half_spot_for(result)
    } else {
        b.spot_for(result).place
    };
    operands.push(write(Role::Out, out));
    b.node(spec, operands, &group.members)
}

fn matrix(
    b: &mut Builder<'_>,
    group: &Group,
    linear: ValueId,
    template: Template,
    norm: Option<ValueId>,
    steps: &[Step],
) -> Result<(), CompileError> {
    let Op::Linear { x, weight, .. } = b.graph.values[linear].op else { unreachable!("a matrix group") };
    let result = group.result();
    let mut spec = b.spec(template, linear);
    let w = &b.graph.weights[weight];
    spec.weight = Some(w.format);
    spec.set("K", Const::U32(w.n_cols));
    spec.set("N", Const::U32(w.n_rows));
    if template == Template::Matvec {
        let rows = b.graph.values[linear].shape.rows;
        // A chunk wants one row a sequence, but for prompts whose every logit is wanted.
        let n_rows = if rows == Dim::Rows { b.bucket.bounds.sequences } else { b.bucket.bounds.get(rows) };
        spec.set("M_MAX", Const::U32(n_rows.clamp(1, b.target.matvec_rows)));
        if is_half(b.graph, &b.users, b.target, linear) {
            spec.set("HALF", Const::U32(1));
        }
    }
    set_matrix_units(b, &mut spec);
    if template == Template::MatmulCoop {
        let n_rows = b.bucket.bounds.get(b.graph.values[linear].shape.rows);
        set_coop_rows(&mut spec, b.target, n_rows);
    }
    let mut operands = vec![STEP];
    operands.extend(input(b, &mut spec, x, norm, linear)?);
    if spec.u32("HALF") == Some(1)
        && spec.prologue != Prologue::RmsNorm
        && b.target.multiplies_bytes(w.format, w.n_cols)
    {
        spec.set("INT8", Const::U32(1));
    }
    operands.push(read(Role::Weight, Place::Weight(weight)));
    let Spot { place, at, stride } = if group.half {
        spec.set("OUT_HALF", Const::U32(1));
        Spot { place: b.half_spot_for(result), at: 0, stride: b.cols(result) }
    } else {
        b.spot_for(result)
    };
    spec.set("OUT_STRIDE", Const::U32(stride));
    spec.set("OUT_AT", Const::U32(at));
    epilogue(b, &mut spec, &mut operands, steps, result)?;
    operands.push(write(Role::Out, place));
    if group.normed.is_some() {
        spec.epilogue.push(EpilogueOp::Normed);
    }
    let mut spec = b.tiled(spec);
    if let Some(norm) = group.normed {
        let Op::RmsNorm { weight, .. } = b.graph.values[norm].op else { unreachable!("half_rows names a norm") };
        let n_parts = link::const_value(&spec, b.target, "SQUARE_PARTS").ok_or_else(|| {
            let why = "its tiles leave no whole number of sums of squares".into();
            CompileError::NoKernel { value: result, op: "linear", why }
        })?;
        spec.set("SQUARE_PARTS", Const::U32(n_parts));
        let normed = b.normed_for(norm, n_parts);
        operands.push(read(Role::NextNorm, Place::Weight(weight)));
        operands.push(write(Role::Normed, normed.rows));
        operands.push(write(Role::Squares, normed.squares));
    }
    b.node(spec, operands, &group.members)
}

/// Rows of the smallest tile on matrix units.
const MIN_COOP_ROWS: u32 = 16;

/// Sets the rows of a tile on matrix units, if they are not the catalogue's: no more than a step has, and half where whole
/// tiles would be too few for the device. Where halves are enough, they need no slices besides.
fn set_coop_rows(spec: &mut KernelSpec, target: &TargetProfile, n_rows: u32) {
    let number = |name: &str| link::const_value(spec, target, name);
    let (Some(tile_m), Some(tile_n), Some(n)) = (number("TILE_M"), number("TILE_N"), number("N")) else { return };
    let short = n_rows.max(MIN_COOP_ROWS).next_power_of_two();
    let are_few =
        |tile_m: u32, tile_n: u32| n_rows.div_ceil(tile_m).saturating_mul(n.div_ceil(tile_n)) < target.busy_workgroups;
    let rows = short.min(if are_few(tile_m, tile_n) { tile_m / 2 } else { tile_m });
    if rows < tile_m {
        spec.set("TILE_M", Const::U32(rows));
        // Smaller tiles have half as many rows of W too.
        if rows < n_rows && !are_few(rows, tile_m / 2) {
            spec.set("SLICES", Const::U32(1));
        }
    }
}

/// Sets which matrix units a product on them takes.
fn set_matrix_units(b: &Builder<'_>, spec: &mut KernelSpec) {
    let (Template::MatmulCoop, Some(format), Some(n_cols)) = (spec.template, spec.weight, spec.u32("K")) else {
        return;
    };
    set_units(spec, b.target.matrix_units(format, n_cols));
}

fn set_units(spec: &mut KernelSpec, units: Option<MatrixUnits>) {
    let Some(MatrixUnits { side, lanes }) = units else { return };
    spec.set("SIDE", Const::U32(side));
    spec.set("LANES", Const::U32(lanes));
}

/// What a matrix product reads as x, with its norm's part.
fn input(
    b: &mut Builder<'_>,
    spec: &mut KernelSpec,
    x: ValueId,
    norm: Option<ValueId>,
    linear: ValueId,
) -> Result<Vec<Operand>, CompileError> {
    let Some((norm, Op::RmsNorm { x: raw, weight, eps })) = norm.map(|norm| (norm, &b.graph.values[norm].op)) else {
        if b.is_half(x) {
            spec.set("X_HALF", Const::U32(1));
            return Ok(vec![read(Role::X, b.spot_for(x).place)]);
        }
        return Ok(vec![read(Role::X, b.whole(x, linear)?)]);
    };
    spec.set("EPS", Const::F32(*eps));
    if let Some(normed) = b.normed(norm) {
        spec.prologue = Prologue::RmsNormParts;
        spec.set("X_HALF", Const::U32(1));
        spec.set("SQUARE_PARTS", Const::U32(normed.n_parts));
        return Ok(vec![read(Role::X, normed.rows), read(Role::Squares, normed.squares)]);
    }
    spec.prologue = Prologue::RmsNorm;
    let (raw, weight) = (*raw, *weight);
    Ok(vec![read(Role::NormWeight, Place::Weight(weight)), read(Role::X, b.whole(raw, linear)?)])
}

/// Adds an epilogue's steps and operands to a kernel.
fn epilogue(
    b: &mut Builder<'_>,
    spec: &mut KernelSpec,
    operands: &mut Vec<Operand>,
    steps: &[Step],
    result: ValueId,
) -> Result<(), CompileError> {
    let mut next = 0u8;
    for step in steps {
        let place = match *step {
            Step::Bias(weight) => Some(Place::Weight(weight)),
            Step::Add(v) | Step::Mul(v) => Some(b.whole(v, result)?),
            Step::RopeKv { q, k, write: kv } => {
                let (_, freqs, layer) = rotation(b, spec, q, k, kv)?;
                spec.epilogue.push(EpilogueOp::RopeKv);
                operands.push(read(Role::Freqs, Place::Weight(freqs)));
                operands.push(write(Role::Kv, Place::Kv(layer)));
                continue;
            }
            Step::Scale(by) => {
                spec.set("FACTOR", Const::F32(by));
                None
            }
            Step::Softcap(cap) => {
                spec.set("CAP", Const::F32(cap));
                None
            }
            Step::Silu | Step::Gelu | Step::SiluMulPairs | Step::GeluMulPairs => None,
        };
        spec.epilogue.push(match step {
            Step::Bias(_) => EpilogueOp::Bias(next),
            Step::Add(_) => EpilogueOp::Add(next),
            Step::Mul(_) => EpilogueOp::Mul(next),
            Step::Silu => EpilogueOp::Silu,
            Step::Gelu => EpilogueOp::Gelu,
            Step::SiluMulPairs => EpilogueOp::SiluMulPairs,
            Step::GeluMulPairs => EpilogueOp::GeluMulPairs,
            Step::Scale(_) => EpilogueOp::Scale,
            Step::Softcap(_) => EpilogueOp::Softcap,
            Step::RopeKv { .. } => EpilogueOp::RopeKv,
        });
        if let Some(place) = place {
            operands.push(read(EPILOGUE_ROLES[usize::from(next)], place));
            next += 1;
        }
    }
    Ok(())
}

/// Sets the numbers of a rotation with cache write. Gives its values, frequencies and layer.
fn rotation(
    b: &Builder<'_>,
    spec: &mut KernelSpec,
    q: ValueId,
    k: ValueId,
    kv: ValueId,
) -> Result<([ValueId; 3], WeightId, KvLayerId), CompileError> {
    let values = &b.graph.values;
    let (
        Op::Rope { x: q_in, freqs, n_heads, head_dim, rot_dim, scale, .. },
        Op::Rope { x: k_in, n_heads: n_kv_heads, .. },
    ) = (&values[q].op, &values[k].op)
    else {
        unreachable!("a rope group")
    };
    let Op::KvWrite { v: Some(v_in), layer, .. } = values[kv].op else { unreachable!("a rope group") };
    let shape = b.graph.kv.shape(layer);
    if shape.k_dim != shape.v_dim || shape.k_dim != *head_dim {
        let why = format!("keys of {} and values of {} numbers", shape.k_dim, shape.v_dim);
        return Err(CompileError::NoKernel { value: kv, op: "kv_write", why });
    }
    for (name, number) in [
        ("N_HEADS", *n_heads),
        ("N_KV_HEADS", *n_kv_heads),
        ("HEAD_DIM", *head_dim),
        ("ROT_DIM", *rot_dim),
        ("KV_GROUP", b.graph.kv.layers[layer].group.0),
    ] {
        spec.set(name, Const::U32(number));
    }
    spec.set("ROPE_SCALE", Const::F32(*scale));
    set_kv_type(b, spec);
    Ok(([*q_in, *k_in, v_in], *freqs, layer))
}

/// Sets how numbers lie in pages, where it is not the templates' default.
fn set_kv_type(b: &Builder<'_>, spec: &mut KernelSpec) {
    let kv = b.target.kv_type;
    if kv != KvType::F16 {
        spec.set("KV_BITS", Const::U32(kv.bits()));
    }
    if let Some(group) = kv.group() {
        spec.set("KV_QUANT_GROUP", Const::U32(group));
    }
}

fn rope_kv(
    b: &mut Builder<'_>,
    group: &Group,
    [q, k, kv]: [ValueId; 3],
    norms: Option<WeightId>,
) -> Result<(), CompileError> {
    let mut spec = b.spec(Template::RopeKv, q);
    let ([mut q_in, mut k_in, v_in], freqs, layer) = rotation(b, &mut spec, q, k, kv)?;
    if norms.is_some() {
        spec.prologue = Prologue::RmsNorm;
        for input in [&mut q_in, &mut k_in] {
            let Op::RmsNorm { x, eps, .. } = b.graph.values[*input].op else { unreachable!("a rotation after norms") };
            spec.set("EPS", Const::F32(eps));
            *input = x;
        }
    }
    let (q_at, k_at, v_at) = (b.spot_of(q_in), b.spot_of(k_in), b.spot_of(v_in));
    for (name, number) in [
        ("Q_STRIDE", q_at.stride),
        ("Q_AT", q_at.at),
        ("K_STRIDE", k_at.stride),
        ("K_AT", k_at.at),
        ("V_STRIDE", v_at.stride),
        ("V_AT", v_at.at),
    ] {
        spec.set(name, Const::U32(number));
    }
    if matches!(b.graph.values[q].op, Op::Rope { neighbours: true, .. }) {
        spec.set("NEIGHBOURS", Const::U32(1));
    }
    let out = b.spot_for(q);
    let mut operands = vec![
        STEP,
        read(Role::Q, q_at.place),
        read(Role::K, k_at.place),
        read(Role::V, v_at.place),
        read(Role::Freqs, Place::Weight(freqs)),
        write(Role::Out, out.place),
        write(Role::Kv, Place::Kv(layer)),
    ];
    operands.extend(norms.map(|weights| read(Role::NormWeight, Place::Weight(weights))));
    b.node(spec, operands, &group.members)
}

fn attention(b: &mut Builder<'_>, group: &Group, max_pages: u32) -> Result<(), CompileError> {
    let result = group.result();
    let Op::Attention { q, layer, n_heads, scale, softcap, window, .. } = b.graph.values[result].op else {
        unreachable!("an attention group")
    };
    let shape = b.graph.kv.shape(layer);
    if shape.k_dim != shape.v_dim || shape.latent {
        let why = format!("keys of {} and values of {} numbers", shape.k_dim, shape.v_dim);
        return Err(CompileError::NoKernel { value: result, op: "attention", why });
    }
    let queries = b.whole(q, result)?;
    let decodes = b.bucket.is_decode() && b.target.splits_kv() && shape.k_dim.is_multiple_of(64);
    let units = b.target.attention_units(shape.k_dim).filter(|_| !b.bucket.is_decode());
    let template = match units {
        _ if decodes => Template::AttentionDecode,
        Some(_) => Template::AttentionCoop,
        None => Template::Attention,
    };
    let mut spec = b.spec(template, result);
    for (name, number) in [
        ("N_HEADS", n_heads),
        ("N_KV_HEADS", shape.n_kv_heads),
        ("HEAD_DIM", shape.k_dim),
        ("WINDOW", window.window),
        ("KEEP", window.keep),
        ("MAX_PAGES", max_pages),
    ] {
        spec.set(name, Const::U32(number));
    }
    spec.set("SCALE", Const::F32(scale));
    spec.set("SOFTCAP", Const::F32(softcap));
    set_kv_type(b, &mut spec);
    set_units(&mut spec, units);
    if !decodes {
        spec.set("Q_TILE", Const::U32(b.q_tile()));
    }
    let out = if group.half { b.half_spot_for(result) } else { b.spot_for(result).place };
    let half = Const::U32(u32::from(group.half));
    let n_parts = b.bucket.max_parts;
    let is_split = decodes && n_parts > 1;
    let stored = if is_split { b.parts(result, n_heads * (shape.v_dim + 2)) } else { out };
    if is_split {
        spec.set("PARTS", Const::U32(n_parts));
    } else if group.half {
        spec.set("OUT_HALF", half);
    }
    let operands = vec![
        STEP,
        read(Role::Q, queries),
        write(Role::Out, stored),
        read(Role::Kv, Place::Kv(layer)),
        read(Role::PageTable, Place::PageTable(b.graph.kv.layers[layer].group)),
    ];
    b.node(spec, operands, &group.members)?;
    if !is_split {
        return Ok(());
    }
    let mut last = b.spec(Template::AttentionCombine, result);
    for (name, number) in [("N_HEADS", n_heads), ("HEAD_DIM", shape.v_dim), ("PARTS", n_parts)] {
        last.set(name, Const::U32(number));
    }
    if group.half {
        last.set("OUT_HALF", half);
    }
    b.node(last, vec![STEP, read(Role::X, stored), write(Role::Out, out)], &group.members)
}

fn gather(b: &mut Builder<'_>, group: &Group) -> Result<(), CompileError> {
    let result = group.result();
    let Op::GatherRows { x } = b.graph.values[result].op else { unreachable!("a gather group") };
    let input = b.whole(x, result)?;
    let out = b.spot_for(result);
    let mut spec = b.spec(Template::GatherRows, result);
    spec.set("N_COLS", Const::U32(b.cols(x)));
    b.node(spec, vec![STEP, read(Role::X, input), write(Role::Out, out.place)], &group.members)
}

fn map(b: &mut Builder<'_>, group: &Group, x: ValueId, steps: &[Step]) -> Result<(), CompileError> {
    let result = group.result();
    let input = b.whole(x, result)?;
    let out = b.spot_for(result);
    let mut spec = b.spec(Template::Map, result);
    spec.set("N_COLS", Const::U32(b.cols(x)));
    let mut operands = vec![STEP, read(Role::X, input)];
    epilogue(b, &mut spec, &mut operands, steps, result)?;
    operands.push(write(Role::Out, out.place));
    b.node(spec, operands, &group.members)
}

/// The choice of an id: the greatest, or what the step's table of choices says, of which the processor's kernels know nothing.
fn argmax(b: &mut Builder<'_>, group: &Group, max_context: u32) -> Result<(), CompileError> {
    let result = group.result();
    let Op::Argmax { x } = b.graph.values[result].op else { unreachable!("an argmax group") };
    let n = b.cols(x);
    let logits = b.whole(x, result)?;
    let parts = b.scratch(result, n.div_ceil(SAMPLE_BLOCK) * PART_WORDS);
    let spec = |b: &Builder<'_>, template| {
        let mut spec = b.spec(template, result);
        // Where every token is wanted the two are the same, and variants share their kernels.
        if b.bucket.all_rows && !b.target.is_cpu {
            spec.rows = Rows::Wanted;
        }
        spec.set("N", Const::U32(n));
        spec.set("BLOCK", Const::U32(SAMPLE_BLOCK));
        spec
    };
    let (mut first, mut last) = (spec(b, Template::SamplePartial), spec(b, Template::SampleFinal));
    if b.target.is_cpu {
        b.node(first, vec![STEP, read(Role::X, logits), write(Role::Out, parts)], &group.members)?;
        return b.node(last, vec![STEP, read(Role::Parts, parts), write(Role::Out, Place::Sampled)], &group.members);
    }
    let bins = b.scratch(result, BIN_WORDS);
    let gathered = b.scratch(result, gathered_ids(n));
    let history = Const::U32(history_tokens(max_context));
    first.set("RING", history);
    last.set("RING", history);
    let operands = vec![
        STEP,
        write(Role::X, logits),
        read(Role::Columns, Place::Columns),
        write(Role::Out, parts),
        write(Role::Bins, bins),
    ];
    b.node(first, operands, &group.members)?;
    let operands = vec![STEP, read(Role::X, logits), read(Role::Parts, parts), write(Role::Out, bins)];
    b.node(spec(b, Template::SampleBins), operands, &group.members)?;
    let operands = vec![
        STEP,
        read(Role::X, logits),
        read(Role::Parts, parts),
        write(Role::Out, gathered),
        write(Role::Bins, bins),
    ];
    b.node(spec(b, Template::SampleGather), operands, &group.members)?;
    let mut operands = vec![
        STEP,
        read(Role::X, logits),
        read(Role::Parts, parts),
        write(Role::Out, Place::Sampled),
        write(Role::Columns, Place::Columns),
    ];
    b.node(last, operands.clone(), &group.members)?;
    operands.extend([read(Role::Bins, bins), read(Role::Gathered, gathered)]);
    let mut filter = spec(b, Template::SampleFilter);
    filter.set("RING", history);
    b.node(filter, operands, &group.members)
}

/// The number of workgroups as an expression.
pub(crate) fn grid_of(
    spec: &KernelSpec,
    target: &TargetProfile,
    graph: &mut KernelGraph,
) -> Result<ingot_ir::size::ExprId, CompileError> {
    let rule = link::grid(spec, target)?;
    let unit = match rule.dim {
        Some(dim) => graph.exprs.dim(dim),
        None => graph.exprs.constant(1),
    };
    let unit = graph.exprs.times(unit, rule.each);
    let unit = graph.exprs.ceil_div(unit, rule.divisor);
    let unit = graph.exprs.plus(unit, rule.more);
    Ok(graph.exprs.times(unit, rule.times))
}
