//! The text form of [`Graph`].

use crate::IrError;
use crate::graph::{Graph, Op, Shape, ValueId};
use crate::handle::Handle;
use crate::kv::{KvGroup, KvLayer, KvShape, Window};
use crate::size::Dim;
use crate::text::{Line, parse_lines};
use crate::weight::{Format, Layout, RotaryPairs, Source, Weight, WeightId};
use std::fmt;

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.rows.name(), self.n_cols)
    }
}

impl Shape {
    /// Reads `tokens x 64`.
    pub(crate) fn parse_text(text: &str) -> Option<Self> {
        let (rows, n_cols) = text.split_once(" x ")?;
        Some(Self { rows: Dim::parse(rows)?, n_cols: n_cols.parse().ok()? })
    }
}

pub(crate) fn group_line(group: &KvGroup) -> Line {
    let KvGroup { shape, window } = group;
    Line::new("kv_group")
        .attr("heads", shape.n_kv_heads)
        .attr("k", shape.k_dim)
        .attr("v", shape.v_dim)
        .attr_unless("latent", shape.latent, false)
        .attr_unless("window", window.window, 0)
        .attr_unless("keep", window.keep, 0)
}

pub(crate) fn parse_group(line: &Line) -> Result<KvGroup, IrError> {
    let shape = KvShape {
        n_kv_heads: line.value("heads")?,
        k_dim: line.value("k")?,
        v_dim: line.value("v")?,
        latent: line.value_or("latent", false)?,
    };
    Ok(KvGroup { shape, window: parse_window(line)? })
}

fn parse_window(line: &Line) -> Result<Window, IrError> {
    Ok(Window { window: line.value_or("window", 0)?, keep: line.value_or("keep", 0)? })
}

/// Prints f32 numbers so that they read back to the same bits.
pub(crate) fn numbers_text(numbers: &[f32]) -> String {
    numbers.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(",")
}

pub(crate) fn parse_numbers(line: &Line, text: &str) -> Result<Vec<f32>, IrError> {
    let number = |item: &str| item.parse().map_err(|_| line.error(format!("{item:?} is no number")));
    text.split(',').filter(|item| !item.is_empty()).map(number).collect()
}

fn weight_line(weight: &Weight) -> Line {
    let line = match &weight.source {
        Source::Tensor(name) => Line::new("tensor").arg(name),
        Source::Inline(numbers) => Line::new("inline").arg(numbers_text(numbers)),
        Source::Rows { of, first, .. } => Line::new("rows").arg(of).attr("first", first),
        Source::Stack(parts) => Line::new("stack").args(parts),
        Source::Interleave(a, b) => Line::new("interleave").arg(a).arg(b),
        Source::OnePlus(of) => Line::new("one_plus").arg(of),
        Source::PairRows { of, order } => {
            Line::new("pair_rows").arg(of).attr("head_dim", order.head_dim).attr("rot_dim", order.rot_dim)
        }
    };
    let line = if weight.layout == Layout::Unassigned { line } else { line.attr("layout", weight.layout.name()) };
    line.kind(format_args!("{} x {} {}", weight.n_rows, weight.n_cols, weight.format))
}

fn parse_weight(line: &Line) -> Result<Weight, IrError> {
    let kind = || {
        let (rows, rest) = line.kind.as_deref()?.split_once(" x ")?;
        let (cols, format) = rest.split_once(' ')?;
        Some((rows.parse().ok()?, cols.parse().ok()?, Format::parse(format)?))
    };
    let (n_rows, n_cols, format) = kind().ok_or_else(|| line.error("expected `: ROWS x COLUMNS FORMAT`"))?;
    let layout = match line.get("layout") {
        None => Layout::Unassigned,
        Some(text) => Layout::parse(text).ok_or_else(|| line.error(format!("unknown layout {text}")))?,
    };
    let first_arg = || line.args.first().ok_or_else(|| line.error(format!("`{}` needs an operand", line.op)));
    let source = match line.op.as_str() {
        "tensor" => Source::Tensor(first_arg()?.clone()),
        "inline" => Source::Inline(parse_numbers(line, first_arg()?)?),
        "rows" => Source::Rows { of: line.handle(0)?, first: line.value("first")?, count: n_rows },
        "stack" => Source::Stack(line.handles()?),
        "interleave" => Source::Interleave(line.handle(0)?, line.handle(1)?),
        "one_plus" => Source::OnePlus(line.handle(0)?),
        "pair_rows" => {
            let order = RotaryPairs { head_dim: line.value("head_dim")?, rot_dim: line.value("rot_dim")? };
            Source::PairRows { of: line.handle(0)?, order }
        }
        other => return Err(line.error(format!("unknown weight source `{other}`"))),
    };
    Ok(Weight { n_rows, n_cols, format, layout, source })
}

fn op_line(op: &Op) -> Line {
    let line = Line::new(op.name());
    match op {
        Op::Embed { parts } => line.args(parts),
        Op::RmsNorm { x, weight, eps } => line.arg(x).arg(weight).attr("eps", format_args!("{eps:?}")),
        Op::Linear { x, weight, bias } => {
            let line = line.arg(x).arg(weight);
            match bias {
                Some(bias) => line.attr("bias", bias),
                None => line,
            }
        }
        Op::Rope { x, freqs, n_heads, head_dim, rot_dim, scale, neighbours } => line
            .arg(x)
            .arg(freqs)
            .attr("heads", n_heads)
            .attr("head_dim", head_dim)
            .attr_unless("rot_dim", rot_dim, head_dim)
            .attr_unless("scale", *scale, 1.0)
            .attr_unless("neighbours", *neighbours, false),
        Op::KvWrite { k, v, layer } => line.arg(k).args(v).attr("layer", layer),
        Op::Attention { q, kv, layer, n_heads, scale, softcap, window } => line
            .arg(q)
            .arg(kv)
            .attr("layer", layer)
            .attr("heads", n_heads)
            .attr("scale", format_args!("{scale:?}"))
            .attr_unless("softcap", *softcap, 0.0)
            .attr_unless("window", window.window, 0)
            .attr_unless("keep", window.keep, 0),
        Op::Add { a, b } | Op::Mul { a, b } => line.arg(a).arg(b),
        Op::Silu { x }
        | Op::Gelu { x }
        | Op::SiluMulPairs { x }
        | Op::GeluMulPairs { x }
        | Op::GatherRows { x }
        | Op::Argmax { x } => line.arg(x),
        Op::Scale { x, by } => line.arg(x).attr("by", format_args!("{by:?}")),
        Op::Softcap { x, cap } => line.arg(x).attr("cap", format_args!("{cap:?}")),
        Op::MoeRoute { logits, k, renormalize } => {
            line.arg(logits).attr("k", k).attr_unless("renormalize", *renormalize, false)
        }
        Op::MoeLinear { x, route, parts, n_experts } => line.arg(x).arg(route).args(parts).attr("experts", n_experts),
        Op::MoeSum { x, route } => line.arg(x).arg(route),
        Op::Slice { x, at, .. } => line.arg(x).attr("at", at),
        Op::Concat { parts } => line.args(parts),
    }
}

fn parse_op(line: &Line, shape: Shape) -> Result<Op, IrError> {
    let x = || line.handle::<ValueId>(0);
    let b = || line.handle::<ValueId>(1);
    let op = match line.op.as_str() {
        "embed" => Op::Embed { parts: line.handles()? },
        "rms_norm" => Op::RmsNorm { x: x()?, weight: line.handle(1)?, eps: line.value("eps")? },
        "linear" => Op::Linear { x: x()?, weight: line.handle(1)?, bias: line.handle_attr("bias")? },
        "rope" => {
            let head_dim = line.value("head_dim")?;
            Op::Rope {
                x: x()?,
                freqs: line.handle(1)?,
                n_heads: line.value("heads")?,
                head_dim,
                rot_dim: line.value_or("rot_dim", head_dim)?,
                scale: line.value_or("scale", 1.0)?,
                neighbours: line.value_or("neighbours", false)?,
            }
        }
        "kv_write" => {
            let layer = line.handle_attr("layer")?.ok_or_else(|| line.error("`kv_write` needs layer="))?;
            Op::KvWrite { k: x()?, v: if line.args.len() > 1 { Some(b()?) } else { None }, layer }
        }
        "attention" => Op::Attention {
            q: x()?,
            kv: b()?,
            layer: line.handle_attr("layer")?.ok_or_else(|| line.error("`attention` needs layer="))?,
            n_heads: line.value("heads")?,
            scale: line.value("scale")?,
            softcap: line.value_or("softcap", 0.0)?,
            window: parse_window(line)?,
        },
        "add" => Op::Add { a: x()?, b: b()? },
        "mul" => Op::Mul { a: x()?, b: b()? },
        "silu" => Op::Silu { x: x()? },
        "gelu" => Op::Gelu { x: x()? },
        "silu_mul_pairs" => Op::SiluMulPairs { x: x()? },
        "gelu_mul_pairs" => Op::GeluMulPairs { x: x()? },
        "scale" => Op::Scale { x: x()?, by: line.value("by")? },
        "softcap" => Op::Softcap { x: x()?, cap: line.value("cap")? },
        "moe_route" => {
            Op::MoeRoute { logits: x()?, k: line.value("k")?, renormalize: line.value_or("renormalize", false)? }
        }
        "moe_linear" => {
            let parts = (2..line.args.len()).map(|ix| line.handle(ix)).collect::<Result<_, _>>()?;
            Op::MoeLinear { x: x()?, route: b()?, parts, n_experts: line.value("experts")? }
        }
        "moe_sum" => Op::MoeSum { x: x()?, route: b()? },
        "slice" => Op::Slice { x: x()?, at: line.value("at")?, n_cols: shape.n_cols },
        "concat" => Op::Concat { parts: line.handles()? },
        "gather_rows" => Op::GatherRows { x: x()? },
        "argmax" => Op::Argmax { x: x()? },
        other => return Err(line.error(format!("unknown op `{other}`"))),
    };
    Ok(op)
}

impl Graph {
    /// A value's line in text: `v3 = linear v2 w5 : tokens x 960`.
    pub fn value_line(&self, id: ValueId) -> String {
        let value = &self.values[id];
        op_line(&value.op).result(id).kind(value.shape).to_string()
    }
    /// A weight's line in text.
    pub fn weight_line(&self, id: WeightId) -> String {
        weight_line(&self.weights[id]).result(id).to_string()
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Line::new("graph").arg(&self.name))?;
        for (id, group) in self.kv.groups.iter() {
            writeln!(f, "{}", group_line(group).result(id))?;
        }
        for (id, layer) in self.kv.layers.iter() {
            writeln!(f, "{}", Line::new("kv_layer").arg(layer.group).result(id))?;
        }
        for (id, weight) in self.weights.iter() {
            writeln!(f, "{}", weight_line(weight).result(id))?;
        }
        for id in self.values.ids() {
            writeln!(f, "{}", self.value_line(id))?;
        }
        writeln!(f, "{}", Line::new("output").args(&self.outputs))
    }
}

/// Checks that a line defines the next handle of its kind.
pub(crate) fn expect_next<H: Handle>(line: &Line, len: usize) -> Result<(), IrError> {
    let next = H::from_ix(len).to_string();
    match &line.result {
        Some(result) if *result == next => Ok(()),
        other => Err(line.error(format!("expected {next} = ..., found {}", other.as_deref().unwrap_or("nothing")))),
    }
}

impl std::str::FromStr for Graph {
    type Err = IrError;

    /// Reads what `Display` prints, and verifies it.
    fn from_str(text: &str) -> Result<Self, IrError> {
        let mut graph = Self::default();
        for line in parse_lines(text)? {
            let result = line.result.as_deref().unwrap_or("");
            if result.starts_with(WeightId::PREFIX) {
                expect_next::<WeightId>(&line, graph.weights.len())?;
                graph.weights.push(parse_weight(&line)?);
            } else if result.starts_with(ValueId::PREFIX) {
                expect_next::<ValueId>(&line, graph.values.len())?;
                let shape = line
                    .kind
                    .as_deref()
                    .and_then(Shape::parse_text)
                    .ok_or_else(|| line.error("expected `: ROWS x COLUMNS`"))?;
                let id = graph.push(parse_op(&line, shape)?).map_err(|e| line.error(e.to_string()))?;
                if graph.values[id].shape != shape {
                    return Err(line.error(format!("{id} computes {}, not {shape}", graph.values[id].shape)));
                }
            } else {
                match line.op.as_str() {
                    "graph" => graph.name = line.args.first().cloned().unwrap_or_default(),
                    "kv_group" => {
                        expect_next::<crate::kv::KvGroupId>(&line, graph.kv.groups.len())?;
                        graph.kv.groups.push(parse_group(&line)?);
                    }
                    "kv_layer" => {
                        expect_next::<crate::kv::KvLayerId>(&line, graph.kv.layers.len())?;
                        graph.kv.layers.push(KvLayer { group: line.handle(0)? });
                        // The shapes of what follows are inferred from it.
                        graph.kv.verify().map_err(|e| line.error(e.to_string()))?;
                    }
                    "output" => graph.outputs = line.handles()?,
                    other => return Err(line.error(format!("unknown line `{other}`"))),
                }
            }
            line.finish()?;
        }
        graph.verify()?;
        Ok(graph)
    }
}
