//! The text form of [`KernelGraph`] and of what it shares with the plan: specs, operands.

use crate::IrError;
use crate::graph::{Shape, ValueId};
use crate::graph_text::expect_next;
use crate::handle::Handle;
use crate::kernel::{
    Access, Const, EpilogueOp, KernelGraph, KernelId, KernelNode, KernelSpec, Operand, Place, Prologue, Role, Rows,
    Slab, SlabId, Template,
};
use crate::kv::{KvGroupId, KvLayerId};
use crate::size::{Dim, Dims};
use crate::text::{Line, parse_lines};
use crate::weight::{Format, WeightId};
use std::fmt;

fn joined<T: fmt::Display>(items: &[T], separator: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

pub(crate) fn list<T: fmt::Display>(items: &[T]) -> String {
    joined(items, ",")
}

fn const_text((name, value): &(String, Const)) -> String {
    match value {
        Const::U32(n) => format!("{name}={n}"),
        Const::F32(n) => format!("{name}={n:?}f"),
    }
}

/// Adds a spec's attributes to a line; numbers come last, in capitals.
pub(crate) fn spec_attrs(mut line: Line, spec: &KernelSpec) -> Line {
    line = line.attr("rows", spec.rows);
    if let Some(format) = spec.weight {
        line = line.attr("format", format);
    }
    line = line.attr_unless("prologue", spec.prologue, Prologue::None);
    if !spec.epilogue.is_empty() {
        line = line.attr("epilogue", list(&spec.epilogue));
    }
    for constant in &spec.consts {
        let text = const_text(constant);
        if let Some((name, value)) = text.split_once('=') {
            line = line.attr(name, value);
        }
    }
    line
}

/// Reads a template and what [`spec_attrs`] wrote.
pub(crate) fn parse_spec(line: &Line) -> Result<KernelSpec, IrError> {
    let template = Template::parse(&line.op).ok_or_else(|| line.error(format!("unknown template `{}`", line.op)))?;
    let rows =
        line.get("rows").and_then(Rows::parse).ok_or_else(|| line.error("expected rows=tokens or rows=wanted"))?;
    let mut spec = KernelSpec::new(template, rows);
    for (ix, (key, text)) in line.attrs.iter().enumerate() {
        let unknown = || line.error(format!("{key}={text} is no valid value"));
        match key.as_str() {
            "format" => spec.weight = Some(Format::parse(text).ok_or_else(unknown)?),
            "prologue" => spec.prologue = Prologue::parse(text).ok_or_else(unknown)?,
            "epilogue" => {
                spec.epilogue =
                    text.split(',').map(|op| EpilogueOp::parse(op).ok_or_else(unknown)).collect::<Result<_, _>>()?
            }
            name if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
                let value = match text.strip_suffix('f') {
                    Some(number) => Const::F32(number.parse().map_err(|_| unknown())?),
                    None => Const::U32(text.parse().map_err(|_| unknown())?),
                };
                spec.set(name, value);
            }
            // Not a spec's: the caller's or unknown.
            _ => continue,
        }
        line.mark(ix);
    }
    Ok(spec)
}

/// `tokens,sequences,rows,tiles`, and the filtered rows where they are not all.
pub(crate) fn dims_text(dims: &Dims) -> String {
    let n_told = if dims.filtered == dims.rows { 4 } else { 5 };
    Dim::ALL[..n_told].iter().map(|dim| dims.get(*dim).to_string()).collect::<Vec<_>>().join(",")
}

pub(crate) fn parse_dims(line: &Line, text: &str) -> Result<Dims, IrError> {
    let numbers: Option<Vec<u32>> = text.split(',').map(|n| n.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[tokens, sequences, rows, tiles]) => Ok(Dims { tokens, sequences, rows, tiles, filtered: rows }),
        Some(&[tokens, sequences, rows, tiles, filtered]) => Ok(Dims { tokens, sequences, rows, tiles, filtered }),
        _ => Err(line.error(format!("expected tokens,sequences,rows,tiles, found {text:?}"))),
    }
}

/// `role:access:place`, e.g. `x<s3` for read and `out>s4` for read_write.
impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.role, access_mark(self.access), self.place)
    }
}

pub(crate) fn access_mark(access: Access) -> char {
    match access {
        Access::Read => '<',
        Access::ReadWrite => '>',
    }
}

/// Splits `role<place` or `role>place`.
pub(crate) fn split_operand(text: &str) -> Option<(Role, Access, &str)> {
    let at = text.find(['<', '>'])?;
    let access = if text[at..].starts_with('<') { Access::Read } else { Access::ReadWrite };
    Some((Role::parse(&text[..at])?, access, &text[at + 1..]))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step => f.write_str("step"),
            Self::Sampled => f.write_str("sampled"),
            Self::Columns => f.write_str("columns"),
            Self::Logits => f.write_str("logits"),
            Self::Slab(slab) => slab.fmt(f),
            Self::Weight(weight) => weight.fmt(f),
            Self::Kv(layer) => layer.fmt(f),
            Self::PageTable(group) => group.fmt(f),
        }
    }
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "step" => Some(Self::Step),
            "sampled" => Some(Self::Sampled),
            "columns" => Some(Self::Columns),
            "logits" => Some(Self::Logits),
            _ => SlabId::parse(text)
                .map(Self::Slab)
                .or_else(|| WeightId::parse(text).map(Self::Weight))
                .or_else(|| KvLayerId::parse(text).map(Self::Kv))
                .or_else(|| KvGroupId::parse(text).map(Self::PageTable)),
        }
    }
}

impl KernelGraph {
    /// A node's line in text.
    pub fn node_line(&self, id: KernelId) -> String {
        let node = &self.nodes[id];
        let line = Line::new(node.spec.template.name()).args(&node.operands).result(id);
        let line = spec_attrs(line, &node.spec).attr("grid", self.exprs.show(node.grid));
        line.attr("origin", list(&node.origin)).to_string()
    }
}

impl fmt::Display for KernelGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Line::new("kernels").attr("bucket", dims_text(&self.bucket)))?;
        for (id, slab) in self.slabs.iter() {
            let line = Line::new("slab").arg(slab.holds).result(id).kind(slab.shape);
            let line = match slab.in_place_of {
                Some(of) => line.attr("in_place_of", of),
                None => line,
            };
            writeln!(f, "{line}")?;
        }
        for id in self.nodes.ids() {
            writeln!(f, "{}", self.node_line(id))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for KernelGraph {
    type Err = IrError;

    /// Reads what `Display` prints, and verifies it.
    fn from_str(text: &str) -> Result<Self, IrError> {
        let mut graph = Self::new(Dims::default());
        for line in parse_lines(text)? {
            match line.op.as_str() {
                "kernels" => graph.bucket = parse_dims(&line, line.get("bucket").unwrap_or(""))?,
                "slab" => {
                    expect_next::<SlabId>(&line, graph.slabs.len())?;
                    let shape = line
                        .kind
                        .as_deref()
                        .and_then(Shape::parse_text)
                        .ok_or_else(|| line.error("expected `: ROWS x COLUMNS`"))?;
                    let in_place_of = line.handle_attr("in_place_of")?;
                    graph.slabs.push(Slab { holds: line.handle(0)?, shape, in_place_of });
                }
                _ => {
                    expect_next::<KernelId>(&line, graph.nodes.len())?;
                    let operand = |text: &String| {
                        let (role, access, place) = split_operand(text)?;
                        Some(Operand { role, access, place: Place::parse(place)? })
                    };
                    let operands = line
                        .args
                        .iter()
                        .map(|arg| operand(arg).ok_or_else(|| line.error(format!("{arg:?} is no operand"))));
                    let operands = operands.collect::<Result<_, _>>()?;
                    let grid = graph.exprs.parse(line.get("grid").unwrap_or("")).map_err(|why| line.error(why))?;
                    let origin = line.handle_list::<ValueId>("origin")?;
                    graph.nodes.push(KernelNode { spec: parse_spec(&line)?, operands, grid, origin });
                }
            }
            line.finish()?;
        }
        graph.verify()?;
        Ok(graph)
    }
}
