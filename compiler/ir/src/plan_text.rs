//! The text form of [`Plan`]. `{}` leaves kernel sources out, for reading; `{:#}` holds everything.

use crate::IrError;
use crate::graph_text::{expect_next, group_line, numbers_text, parse_group, parse_numbers};
use crate::handle::{Arena, Handle};
use crate::kernel::{Access, Role};
use crate::kernel_text::{access_mark, dims_text, list, parse_dims, parse_spec, spec_attrs, split_operand};
use crate::kv::{KvGroupId, KvLayer, KvLayerId, KvSpec, KvType};
use crate::plan::{
    ArenaId, Binding, BlobId, Bound, Dispatch, DispatchId, PipelineId, Plan, PlanKernel, PlanWeight, Segment, Slot,
    Variant, VariantId,
};
use crate::size::ExprPool;
use crate::text::{Line, parse_lines};
use crate::weight::{Format, Layout, RotaryPairs};
use std::fmt;

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step => f.write_str("step"),
            Self::Sampled => f.write_str("sampled"),
            Self::Columns => f.write_str("columns"),
            Self::Logits => f.write_str("logits"),
            Self::Arena { arena, offset, n_bytes } => write!(f, "{arena}@{offset}+{n_bytes}"),
            Self::Weight(blob) => blob.fmt(f),
            Self::Kv(layer) => layer.fmt(f),
            Self::PageTable(group) => group.fmt(f),
        }
    }
}

impl Binding {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "step" => return Some(Self::Step),
            "sampled" => return Some(Self::Sampled),
            "columns" => return Some(Self::Columns),
            "logits" => return Some(Self::Logits),
            _ => {}
        }
        if let Some((arena, range)) = text.split_once('@') {
            let (offset, n_bytes) = range.split_once('+')?;
            return Some(Self::Arena {
                arena: ArenaId::parse(arena)?,
                offset: offset.parse().ok()?,
                n_bytes: n_bytes.parse().ok()?,
            });
        }
        BlobId::parse(text)
            .map(Self::Weight)
            .or_else(|| KvLayerId::parse(text).map(Self::Kv))
            .or_else(|| KvGroupId::parse(text).map(Self::PageTable))
    }
}

fn bound_text(bound: &Bound) -> String {
    format!("{}{}{}", bound.role, access_mark(bound.access), bound.binding)
}

fn slot_text(slot: &Slot) -> String {
    format!("{}{}{}.{}", slot.role, access_mark(slot.access), slot.group, slot.binding)
}

fn weight_line(weight: &PlanWeight) -> Line {
    let mut line = Line::new("weight");
    for segment in &weight.segments {
        let order = segment.order.map_or(String::new(), |order| format!("~{}/{}", order.rot_dim, order.head_dim));
        let plus = if segment.plus_one { "+1" } else { "" };
        line = line.arg(format_args!("{}[{}+{}{order}{plus}]", segment.tensor, segment.first_row, segment.n_rows));
    }
    if !weight.inline.is_empty() {
        line = line.attr("inline", numbers_text(&weight.inline));
    }
    line.attr("layout", weight.layout.name())
        .attr_unless("interleaved", weight.interleaved, false)
        .kind(format_args!("{} x {} {}", weight.n_rows, weight.n_cols, weight.format))
}

fn parse_weight(line: &Line) -> Result<PlanWeight, IrError> {
    let kind = || {
        let (rows, rest) = line.kind.as_deref()?.split_once(" x ")?;
        let (cols, format) = rest.split_once(' ')?;
        Some((rows.parse().ok()?, cols.parse().ok()?, Format::parse(format)?))
    };
    let (n_rows, n_cols, format) = kind().ok_or_else(|| line.error("expected `: ROWS x COLUMNS FORMAT`"))?;
    let segment = |text: &String| {
        let (tensor, range) = text.strip_suffix(']')?.rsplit_once('[')?;
        let (first, n) = range.split_once('+')?;
        let (n, plus_one) = n.strip_suffix("+1").map_or((n, false), |n| (n, true));
        let (n, order) = match n.split_once('~') {
            None => (n, None),
            Some((n, order)) => {
                let (rot_dim, head_dim) = order.split_once('/')?;
                (n, Some(RotaryPairs { head_dim: head_dim.parse().ok()?, rot_dim: rot_dim.parse().ok()? }))
            }
        };
        let (first_row, n_rows) = (first.parse().ok()?, n.parse().ok()?);
        Some(Segment { tensor: tensor.into(), first_row, n_rows, order, plus_one })
    };
    let segments =
        line.args.iter().map(|arg| segment(arg).ok_or_else(|| line.error(format!("{arg:?} is no TENSOR[FIRST+ROWS]"))));
    Ok(PlanWeight {
        n_rows,
        n_cols,
        format,
        layout: line.get("layout").and_then(Layout::parse).ok_or_else(|| line.error("expected layout="))?,
        segments: segments.collect::<Result<_, _>>()?,
        interleaved: line.value_or("interleaved", false)?,
        inline: parse_numbers(line, line.get("inline").unwrap_or(""))?,
    })
}

fn parse_kernel(line: &Line) -> Result<PlanKernel, IrError> {
    let slot = |text: &String| -> Option<Slot> {
        let (role, access, place): (Role, Access, &str) = split_operand(text)?;
        let (group, binding) = place.split_once('.')?;
        Some(Slot { role, access, group: group.parse().ok()?, binding: binding.parse().ok()? })
    };
    let slots = line.args.iter().map(|arg| slot(arg).ok_or_else(|| line.error(format!("{arg:?} is no binding"))));
    let workgroup: Option<Vec<u32>> =
        line.get("workgroup").unwrap_or("1,1,1").split(',').map(|n| n.parse().ok()).collect();
    let workgroup: Option<[u32; 3]> = workgroup.and_then(|sides| sides.try_into().ok());
    Ok(PlanKernel {
        spec: parse_spec(line)?,
        slots: slots.collect::<Result<_, _>>()?,
        workgroup: workgroup.ok_or_else(|| line.error("expected workgroup=X,Y,Z"))?,
        wgsl: line.get("wgsl").unwrap_or("").into(),
    })
}

impl Plan {
    /// A kernel's line in text, without its source.
    pub fn kernel_line(&self, id: PipelineId) -> String {
        kernel_line(id, &self.kernels[id]).to_string()
    }
    /// A dispatch's line in text.
    pub fn dispatch_line(&self, id: DispatchId) -> String {
        let dispatch = &self.dispatches[id];
        let line = Line::new("dispatch").arg(dispatch.kernel).args(self.operands_of(dispatch).iter().map(bound_text));
        let line = line.result(id).attr("grid", self.exprs.show(dispatch.grid));
        line.attr("origin", list(&dispatch.origin)).to_string()
    }
}

fn kernel_line(id: PipelineId, kernel: &PlanKernel) -> Line {
    let line = Line::new(kernel.spec.template.name()).args(kernel.slots.iter().map(slot_text)).result(id);
    spec_attrs(line, &kernel.spec).attr("workgroup", list(&kernel.workgroup))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = Line::new("plan")
            .arg(&self.model)
            .attr("version", self.version)
            .attr("target", &self.target)
            .attr("cpu", self.is_cpu)
            .attr_unless("tiles", self.tiles.as_str(), "")
            .attr("vocab", self.n_vocab)
            .attr("context", self.max_context)
            .attr("batch", self.max_batch)
            .attr("page", self.page_tokens)
            .attr("kv", self.kv_type)
            .attr("max_binding", self.max_binding_bytes);
        writeln!(f, "{head}")?;
        for (id, group) in self.kv.groups.iter() {
            writeln!(f, "{}", group_line(group).result(id))?;
        }
        for (id, layer) in self.kv.layers.iter() {
            writeln!(f, "{}", Line::new("kv_layer").arg(layer.group).result(id))?;
        }
        for (id, n_bytes) in self.arenas.iter() {
            writeln!(f, "{}", Line::new("arena").arg(n_bytes).result(id))?;
        }
        for (id, weight) in self.weights.iter() {
            writeln!(f, "{}", weight_line(weight).result(id))?;
        }
        for (id, kernel) in self.kernels.iter() {
            let mut line = kernel_line(id, kernel);
            if f.alternate() && !kernel.wgsl.is_empty() {
                line = line.attr("wgsl", &kernel.wgsl);
            }
            writeln!(f, "{line}")?;
        }
        for (id, variant) in self.variants.iter() {
            let line = Line::new("variant")
                .result(id)
                .attr("bounds", dims_text(&variant.bounds))
                .attr("q_tile", variant.q_tile);
            let line = line.attr_unless("all_rows", variant.all_rows, false);
            let line = line.attr_unless("max_kv", variant.max_kv, u32::MAX).attr_unless("parts", variant.max_parts, 1);
            writeln!(f, "{line}")?;
            for at in variant.first..variant.first + variant.n_dispatches {
                writeln!(f, "  {}", self.dispatch_line(DispatchId(at)))?;
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Plan {
    type Err = IrError;

    /// Reads what `{:#}` prints, and verifies it. (`{}` reads back too, without kernel sources.)
    fn from_str(text: &str) -> Result<Self, IrError> {
        let mut plan = Self {
            version: 0,
            model: String::new(),
            target: String::new(),
            is_cpu: false,
            tiles: String::new(),
            n_vocab: 0,
            max_context: 0,
            max_batch: 0,
            page_tokens: 0,
            kv_type: KvType::F32,
            kv: KvSpec::default(),
            max_binding_bytes: 0,
            exprs: ExprPool::default(),
            arenas: Arena::new(),
            weights: Arena::new(),
            kernels: Arena::new(),
            variants: Arena::new(),
            dispatches: Arena::new(),
            operands: Vec::new(),
        };
        for line in parse_lines(text)? {
            plan.parse_line(&line)?;
            line.finish()?;
        }
        plan.verify()?;
        Ok(plan)
    }
}

impl Plan {
    fn parse_line(&mut self, line: &Line) -> Result<(), IrError> {
        match line.op.as_str() {
            "plan" => {
                self.model = line.args.first().cloned().unwrap_or_default();
                self.version = line.value("version")?;
                self.target = line.value("target")?;
                self.is_cpu = line.value("cpu")?;
                self.tiles = line.get("tiles").unwrap_or_default().into();
                self.n_vocab = line.value("vocab")?;
                self.max_context = line.value("context")?;
                self.max_batch = line.value("batch")?;
                self.page_tokens = line.value("page")?;
                self.max_binding_bytes = line.value("max_binding")?;
                let kv = line.get("kv").and_then(KvType::parse);
                self.kv_type = kv.ok_or_else(|| line.error("expected kv=f16, f32, or e.g. affine8g64"))?;
            }
            "kv_group" => {
                expect_next::<KvGroupId>(line, self.kv.groups.len())?;
                self.kv.groups.push(parse_group(line)?);
            }
            "kv_layer" => {
                expect_next::<KvLayerId>(line, self.kv.layers.len())?;
                self.kv.layers.push(KvLayer { group: line.handle(0)? });
            }
            "arena" => {
                expect_next::<ArenaId>(line, self.arenas.len())?;
                let n_bytes =
                    line.args.first().and_then(|arg| arg.parse().ok()).ok_or_else(|| line.error("expected a size"))?;
                self.arenas.push(n_bytes);
            }
            "weight" => {
                expect_next::<BlobId>(line, self.weights.len())?;
                self.weights.push(parse_weight(line)?);
            }
            "variant" => {
                expect_next::<VariantId>(line, self.variants.len())?;
                let bounds = parse_dims(line, line.get("bounds").unwrap_or(""))?;
                let first = self.dispatches.len() as u32;
                self.variants.push(Variant {
                    bounds,
                    q_tile: line.value("q_tile")?,
                    all_rows: line.value_or("all_rows", false)?,
                    max_kv: line.value_or("max_kv", u32::MAX)?,
                    max_parts: line.value_or("parts", 1)?,
                    first,
                    n_dispatches: 0,
                });
            }
            "dispatch" => self.parse_dispatch(line)?,
            _ => {
                expect_next::<PipelineId>(line, self.kernels.len())?;
                self.kernels.push(parse_kernel(line)?);
            }
        }
        Ok(())
    }

    fn parse_dispatch(&mut self, line: &Line) -> Result<(), IrError> {
        expect_next::<DispatchId>(line, self.dispatches.len())?;
        let Some(variant) = self.variants.len().checked_sub(1).map(VariantId::from_ix) else {
            return Err(line.error("a dispatch before any variant"));
        };
        self.variants[variant].n_dispatches += 1;
        let first_operand = self.operands.len() as u32;
        for arg in line.args.iter().skip(1) {
            let bound = || {
                let (role, access, place) = split_operand(arg)?;
                Some(Bound { role, access, binding: Binding::parse(place)? })
            };
            self.operands.push(bound().ok_or_else(|| line.error(format!("{arg:?} is no operand")))?);
        }
        let n_operands = self.operands.len() as u32 - first_operand;
        let grid = self.exprs.parse(line.get("grid").unwrap_or("")).map_err(|why| line.error(why))?;
        self.dispatches.push(Dispatch {
            kernel: line.handle(0)?,
            grid,
            first_operand,
            n_operands,
            origin: line.handle_list("origin")?,
        });
        Ok(())
    }
}
