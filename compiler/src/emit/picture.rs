//! What a picture shows of a graph or of kernels: a box a value or dispatch, with its op, shape and weights.

use super::svg::{Look, Shown, draw};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::handle::Column;
use ingot_ir::kernel::{Access, KernelGraph, KernelId, Place, Role, Template};
use ingot_ir::memory::counted;
use ingot_ir::weight::{Source, WeightId};

/// Names of a weight's tensors that a box has room for.
const MAX_NAMES: usize = 4;
/// Characters of a line.
const MAX_CHARS: usize = 46;

/// The decoder layer that each value belongs to: that of its weights' tensors (`layers.N.`), else the latest of its
/// operands'; `None` before the first layer and from the first weight on that is of none.
pub fn layers(graph: &Graph) -> Column<ValueId, Option<u32>> {
    let mut layers = Column::new(graph.values.len(), None);
    for (id, value) in graph.values.iter() {
        let names: Vec<String> = value.op.weights().iter().flat_map(|weight| tensors(graph, *weight)).collect();
        layers[id] = if names.is_empty() {
            value.op.operands().iter().filter_map(|operand| layers[*operand]).max()
        } else {
            names.iter().filter_map(|name| layer_of(name)).max()
        };
    }
    layers
}

/// The first part of a tensor's name that is a number: 3 of `model.layers.3.mlp.experts.7.up_proj`.
fn layer_of(name: &str) -> Option<u32> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Names of the checkpoint tensors that a weight is made of, in order, each once.
fn tensors(graph: &Graph, id: WeightId) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut left = vec![id];
    // Sources refer to earlier weights, so this ends.
    while let Some(id) = left.pop() {
        match &graph.weights[id].source {
            Source::Tensor(name) if names.contains(name) => {}
            Source::Tensor(name) => names.push(name.clone()),
            Source::Inline(_) => {}
            Source::Rows { of, .. } | Source::PairRows { of, .. } | Source::OnePlus(of) => left.push(*of),
            Source::Stack(parts) => left.extend(parts.iter().rev()),
            Source::Interleave(a, b) => left.extend([*b, *a]),
        }
    }
    names
}

/// Lines for weights, the tensors' names cut where there are many or long ones.
fn weight_lines(graph: &Graph, weights: &[WeightId]) -> Vec<String> {
    let names: Vec<String> = weights.iter().flat_map(|weight| tensors(graph, *weight)).collect();
    let mut lines: Vec<String> = names.iter().take(MAX_NAMES).map(|name| cut(name)).collect();
    if names.len() > MAX_NAMES {
        lines.push(format!("and {} more", names.len() - MAX_NAMES));
    }
    lines
}

/// The end of a text that is too long: names differ there.
fn cut(text: &str) -> String {
    let n = text.chars().count();
    if n <= MAX_CHARS {
        return text.to_owned();
    }
    let end: String = text.chars().skip(n - MAX_CHARS + 1).collect();
    format!("…{end}")
}

/// The picture of a graph, or of one layer of it with what it reads from outside.
pub fn graph(graph: &Graph, layer: Option<u32>) -> String {
    let layers = layers(graph);
    let drawn = |id: ValueId| layer.is_none() || layers[id] == layer;
    let mut shown = Vec::new();
    let mut edges = Vec::new();
    let mut at: Column<ValueId, Option<usize>> = Column::new(graph.values.len(), None);
    for (id, value) in graph.values.iter().filter(|(id, _)| drawn(*id)) {
        let operands = value.op.operands();
        for &operand in &operands {
            at[operand].get_or_insert_with(|| {
                shown.push(outside(operand.to_string(), graph, operand));
                shown.len() - 1
            });
        }
        let mut lines = vec![format!("{id} {}", value.op.name()), value.shape.to_string()];
        lines.extend(weight_lines(graph, &value.op.weights()));
        shown.push(Shown { id: id.to_string(), lines, title: graph.value_line(id), look: look(&value.op) });
        at[id] = Some(shown.len() - 1);
        join(&mut edges, operands.iter().filter_map(|operand| at[*operand]), shown.len() - 1);
    }
    draw(&title(&graph.name, layer), &shown, &edges)
}

/// The picture of a bucket's kernels, or of those of one layer with what they read from outside.
pub fn kernels(graph: &Graph, kernels: &KernelGraph, layer: Option<u32>) -> String {
    let layers = layers(graph);
    let layer_of = |id: KernelId| kernels.nodes[id].origin.iter().filter_map(|value| layers[*value]).max();
    let mut shown = Vec::new();
    let mut edges = Vec::new();
    let mut at: Column<KernelId, Option<usize>> = Column::new(kernels.nodes.len(), None);
    let mut writers: Vec<(Place, Vec<KernelId>)> = Vec::new();
    for (id, node) in kernels.nodes.iter() {
        let mut sources = Vec::new();
        for operand in &node.operands {
            // What is added in place is read too.
            let read = match (operand.access, operand.place) {
                (Access::Read, place) => Some(place),
                (_, Place::Slab(slab)) => kernels.slabs[slab].in_place_of.map(Place::Slab),
                _ => None,
            };
            let Some(read) = read else { continue };
            sources.extend(writers.iter().filter(|(place, _)| *place == read).flat_map(|(_, by)| by.clone()));
        }
        for operand in node.operands.iter().filter(|operand| operand.access == Access::ReadWrite) {
            match writers.iter_mut().find(|(place, _)| *place == operand.place) {
                Some((_, by)) => by.push(id),
                None => writers.push((operand.place, vec![id])),
            }
        }
        if layer.is_some() && layer_of(id) != layer {
            continue;
        }
        for &source in &sources {
            at[source].get_or_insert_with(|| {
                let template = kernels.nodes[source].spec.template;
                let lines = vec![format!("{source} {template}"), place_of(layer_of(source))];
                let title = kernels.node_line(source);
                shown.push(Shown { id: source.to_string(), lines, title, look: Look::Outside });
                shown.len() - 1
            });
        }
        shown.push(kernel(graph, kernels, id));
        at[id] = Some(shown.len() - 1);
        join(&mut edges, sources.iter().filter_map(|source| at[*source]), shown.len() - 1);
    }
    let name = format!("{}, steps of up to {}", graph.name, counted(kernels.bucket.tokens.into(), "token"));
    draw(&title(&name, layer), &shown, &edges)
}

/// A dispatch's box.
fn kernel(graph: &Graph, kernels: &KernelGraph, id: KernelId) -> Shown {
    let node = &kernels.nodes[id];
    let spec = &node.spec;
    let mut lines = vec![format!("{id} {}", spec.template)];
    let format = spec.weight.map(|format| format!("weight {format}"));
    let prologue =
        (spec.prologue != ingot_ir::kernel::Prologue::None).then(|| format!("first {}", spec.prologue.name()));
    let epilogue = (!spec.epilogue.is_empty())
        .then(|| spec.epilogue.iter().map(|op| format!("> {op}")).collect::<Vec<_>>().join(" "));
    lines.extend([prologue, format, epilogue].into_iter().flatten().map(|line| cut(&line)));
    let ops: Vec<&str> = node.origin.iter().map(|value| graph.values[*value].op.name()).collect();
    lines.push(cut(&ops.join(", ")));
    let weights: Vec<WeightId> = node
        .operands
        .iter()
        .filter_map(|operand| match operand.place {
            Place::Weight(weight) => Some(weight),
            _ => None,
        })
        .collect();
    lines.extend(weight_lines(graph, &weights));
    let out = node.operands.iter().find(|operand| operand.role == Role::Out).map(|operand| operand.place);
    if let Some(Place::Slab(slab)) = out {
        lines.push(kernels.slabs[slab].shape.to_string());
    }
    let look = match spec.template {
        template if template.multiplies() => Look::Matrix,
        Template::RopeKv | Template::AttentionCombine => Look::Attention,
        template if template.reads_pages() => Look::Attention,
        Template::RmsNorm => Look::Norm,
        Template::Map | Template::MoeRoute | Template::MoeOrder | Template::MoeSum => Look::Element,
        _ => Look::Rows,
    };
    Shown { id: id.to_string(), lines, title: kernels.node_line(id), look }
}

fn look(op: &Op) -> Look {
    match op {
        Op::Linear { .. } | Op::MoeLinear { .. } => Look::Matrix,
        Op::Rope { .. } | Op::KvWrite { .. } | Op::Attention { .. } => Look::Attention,
        Op::RmsNorm { .. } => Look::Norm,
        Op::Embed { .. } | Op::GatherRows { .. } | Op::Argmax { .. } => Look::Rows,
        _ => Look::Element,
    }
}

/// A value that is read but not drawn in full.
fn outside(id: String, graph: &Graph, value: ValueId) -> Shown {
    let lines = vec![format!("{id} {}", graph.values[value].op.name()), graph.values[value].shape.to_string()];
    Shown { id, lines, title: graph.value_line(value), look: Look::Outside }
}

fn place_of(layer: Option<u32>) -> String {
    layer.map_or("of no layer".into(), |layer| format!("layer {layer}"))
}

fn title(name: &str, layer: Option<u32>) -> String {
    layer.map_or(name.into(), |layer| format!("{name}, layer {layer}"))
}

/// Adds edges to a box, each once.
fn join(edges: &mut Vec<(usize, usize)>, from: impl Iterator<Item = usize>, to: usize) {
    let mut from: Vec<usize> = from.collect();
    from.sort_unstable();
    from.dedup();
    edges.extend(from.into_iter().map(|from| (from, to)));
}

/// The number of layers that a graph's weights name.
pub fn n_layers(graph: &Graph) -> u32 {
    let layers = layers(graph);
    graph.values.ids().filter_map(|id| layers[id]).max().map_or(0, |last| last + 1)
}
