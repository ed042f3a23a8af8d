//! From a checkpoint to a GGUF file that llama.cpp loads.

use super::in_order::in_order;
use super::part::Part;
use super::stream::{Rows, all_numbers, chunk_rows};
use super::{Converted, Module, counted, module};
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::formats::gguf::blocks::Stored;
use crate::formats::gguf::encode::{is_made_of_numbers, lossless_type, push_numbers, push_row};
use crate::formats::gguf::names::{gguf_name, pairs_rows, whole_norms};
use crate::formats::gguf::scaling::FREQS;
use crate::formats::gguf::write::{ALIGN_BYTES, Decl, Setting, header};
use crate::formats::gguf::{describe, vocabulary};
use crate::model::Model;
use crate::weights::Matrix;
use ingot_ir::weight::{Format, Layout};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

/// What becomes of a model's matrices. Vectors are written in F32, as llama.cpp wants them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GgufType {
    /// All of one type; those whose columns are no whole blocks in F16, as llama.cpp does it.
    All(Stored),
    /// As they are, and refused where that loses something: affine with 4, 5 or 8 bits whose scales and biases are exact in
    /// f16, mxfp4, and floats.
    Repack,
}

impl GgufType {
    /// Names of the types for [`GgufType::All`].
    pub const NAMES: [&'static str; 5] = ["f32", "f16", "bf16", "q8_0", "q4_0"];

    /// The type of such a name.
    pub fn parse(name: &str) -> Option<Self> {
        let stored = Stored::parse(&name.to_ascii_uppercase())?;
        (Self::NAMES.contains(&name) && is_made_of_numbers(stored)).then_some(Self::All(stored))
    }
}

/// A tensor and what it is made of.
struct Item<'a> {
    decl: Decl,
    from: From<'a>,
    /// Rows of a head whose rotary pairs become neighbours.
    pairs: Option<usize>,
}

enum From<'a> {
    /// Numbers of one column.
    Vector(Vec<f32>),
    /// Rounded to a type, times a factor.
    Numbers(Rows<'a>, f32),
    /// Taken over.
    Codes(Rows<'a>),
}

/// Converts the checkpoint `source`, a folder or a GGUF file, into the file `out`, which must not exist. `progress` is told
/// bytes written and bytes in all; `false` stops.
///
/// # Errors
/// As [`super::convert`]; and what GGUF or llama.cpp has no word for, by name.
pub fn convert_gguf(
    source: &Path,
    out: &Path,
    kind: GgufType,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Converted> {
    if out.exists() {
        return Err(Error::Exists { path: out.to_path_buf() });
    }
    if let GgufType::All(stored) = kind
        && !is_made_of_numbers(stored)
    {
        let what = format!("cannot be written as {stored:?}; types that are: {}", GgufType::NAMES.join(", "));
        return Err(Error::Unsupported { path: out.to_path_buf(), what });
    }
    let model = Model::open(source)?;
    let items = items(&model, kind).map_err(|error| model.checkpoint.in_own_words(error))?;
    let settings = settings(&model, source, &items)?;
    let decls: Vec<Decl> = items.iter().map(|item| item.decl.clone()).collect();
    let converted = Converted {
        n_bytes: decls.iter().map(Decl::n_bytes).sum(),
        n_parameters: decls.iter().map(|decl| decl.shape.iter().product::<usize>() as u64).sum(),
        n_files: 1,
    };
    let part = Part::file(out)?;
    let io = |error| Error::io(part.path(), error);
    let mut told = counted(out, converted.n_bytes, progress);
    let mut file = BufWriter::with_capacity(1 << 20, part.open_file());
    file.write_all(&header(&settings, &decls)).map_err(io)?;
    for item in &items {
        let [n_rows, n_cols] = item.shape();
        // Rows of a head change places among themselves.
        let chunk = chunk_rows(n_cols).next_multiple_of(item.pairs.unwrap_or(1));
        let take = |bytes: Vec<u8>| {
            file.write_all(&bytes).map_err(io)?;
            Ok(bytes.len() as u64)
        };
        in_order(n_rows, chunk, |rows| item.encode(rows), take, &mut told)?;
        let n_bytes = item.decl.n_bytes();
        let gap = n_bytes.next_multiple_of(ALIGN_BYTES) - n_bytes;
        file.write_all(&vec![0; gap as usize]).map_err(io)?;
    }
    file.flush().map_err(io)?;
    drop((file, told));
    part.finish()?;
    Ok(converted)
}

/// Every tensor in the graph's order.
fn items<'a>(model: &'a Model, kind: GgufType) -> Result<Vec<Item<'a>>> {
    let unsupported = |what: String| Error::Unsupported { path: model.checkpoint.folder().to_path_buf(), what };
    describe::architecture(&model.spec).map_err(unsupported)?;
    let (graph, weights) = (model.graph()?, model.weights());
    let (architecture, query_factor) = (model.spec.architecture, describe::query_factor(&model.spec));
    let (mut items, mut seen, mut scaled) = (Vec::new(), BTreeSet::new(), query_factor == 1.0);
    for (_, weight) in graph.weights.iter() {
        let Some(Module { name: path, tensors, n_experts }) = module(&graph, weight) else { continue };
        if !seen.insert(path.clone()) {
            continue;
        }
        let is_vector = weight.layout == Layout::Vector;
        let tensor = if is_vector { path.clone() } else { format!("{path}.weight") };
        let wrong = |what: String| Error::tensor(model.checkpoint.place_of(&tensor), &*tensor, what);
        let name = gguf_name(&tensor, architecture).ok_or_else(|| wrong("has no name in a GGUF file".into()))?;
        let is_paired = ["q_proj", "k_proj"].iter().any(|module| path.contains(module));
        let pairs = (pairs_rows(architecture) && is_paired).then_some(model.spec.head_dim as usize);
        // Where queries are normed that norm makes their size, else the projection and its bias.
        let makes_queries = if model.spec.architecture == Architecture::Gemma3 { "q_norm" } else { "q_proj" };
        let factor = if path.contains(makes_queries) { query_factor } else { 1.0 };
        scaled |= path.contains(makes_queries);
        let (n_rows, n_cols) = (weight.n_rows as usize, weight.n_cols as usize);
        let (stored, shape, from) = if is_vector {
            let numbers = weights.vector(&path, n_rows)?.to_f32s().expect("a vector holds floats, which was checked");
            let offset = if whole_norms(architecture) && tensor.ends_with("norm.weight") { 1.0 } else { 0.0 };
            let numbers = numbers.into_iter().map(|number| (offset + number) * factor).collect();
            (Stored::F32, vec![n_rows], From::Vector(numbers))
        } else {
            let height = n_rows / tensors.len();
            let parts = tensors.iter().map(|path| weights.matrix(path, height, n_cols)).collect::<Result<_>>()?;
            let shape = n_experts.map_or(vec![n_rows, n_cols], |n| vec![n, n_rows / n, n_cols]);
            // Routers are never rounded.
            let is_router = name.ends_with("ffn_gate_inp.weight");
            let (stored, from) = form(Rows { parts, n_experts }, kind, is_router, factor).map_err(wrong)?;
            (stored, shape, from)
        };
        items.push(Item { decl: Decl { name, stored, shape }, from, pairs });
    }
    assert!(scaled, "queries are made by a projection");
    if let Some(factors) = describe::rope_factors(&model.spec) {
        let decl = Decl { name: FREQS.into(), stored: Stored::F32, shape: vec![factors.len()] };
        items.push(Item { decl, from: From::Vector(factors), pairs: None });
    }
    Ok(items)
}

/// The type that a matrix or a stack of them gets.
fn form(matrix: Rows<'_>, kind: GgufType, is_router: bool, factor: f32) -> Result<(Stored, From<'_>), String> {
    let float = match matrix.parts[0].format() {
        Format::F16 => Some(Stored::F16),
        Format::Bf16 => Some(Stored::Bf16),
        Format::F32 => Some(Stored::F32),
        _ => None,
    };
    let stored = match (kind, float) {
        // Numbers of codes are exact in single precision too.
        _ if is_router => Stored::F32,
        (GgufType::Repack, None) if factor == 1.0 => return Ok((lossless(&matrix)?, From::Codes(matrix))),
        (GgufType::Repack, None) => {
            return Err(
                "has codes, but must be multiplied: llama.cpp has no word for the model's factor on scores".into()
            );
        }
        (GgufType::Repack, Some(float)) => float,
        (GgufType::All(stored), _) if matrix.shape()[1].is_multiple_of(stored.block_len()) => stored,
        (GgufType::All(_), _) => Stored::F16,
    };
    Ok((stored, From::Numbers(matrix, factor)))
}

/// The type that holds all of a matrix, or of all experts of a stack, without loss.
fn lossless(matrix: &Rows<'_>) -> Result<Stored, String> {
    let mut types = Vec::new();
    for part in &matrix.parts {
        let Matrix::Foreign(foreign) = part else {
            types.push(lossless_type(part)?);
            continue;
        };
        let step = chunk_rows(foreign.n_cols);
        for first in (0..foreign.n_rows).step_by(step) {
            types.push(lossless_type(&foreign.rows(first..(first + step).min(foreign.n_rows)).view())?);
        }
    }
    // Where one part needs biases, all have them; the first of a pair of types is the one without.
    let with_bias = types.iter().find(|stored| matches!(stored, Stored::Q4_1 | Stored::Q5_1));
    with_bias.or(types.first()).copied().ok_or_else(|| "has no rows".into())
}

impl Item<'_> {
    /// Rows and columns; a stack's experts are one below the other.
    fn shape(&self) -> [usize; 2] {
        match &self.decl.shape[..] {
            [n_rows] => [*n_rows, 1],
            [above @ .., n_cols] => [above.iter().product(), *n_cols],
            [] => [0, 0],
        }
    }

    /// The bytes of some rows; with `pairs` of whole heads.
    fn encode(&self, rows: Range<usize>) -> Vec<u8> {
        // Where row `row` of the file stands in the model.
        let source = |row: usize| self.pairs.map_or(row, |head_dim| unpaired_row(row, head_dim));
        let (mut out, stored, [_, n_cols]) = (Vec::new(), self.decl.stored, self.shape());
        match &self.from {
            From::Vector(all) => rows.for_each(|row| push_numbers(Stored::F32, &[all[source(row)]], &mut out)),
            From::Numbers(matrix, factor) => {
                let mut all = all_numbers(matrix, rows.start, rows.end);
                if *factor != 1.0 {
                    all.iter_mut().for_each(|number| *number *= factor);
                }
                let row = |row: usize| &all[(source(row) - rows.start) * n_cols..][..n_cols];
                rows.clone().for_each(|ix| push_numbers(stored, row(ix), &mut out));
            }
            From::Codes(matrix) => {
                for (part, first, end) in matrix.runs(rows.start, rows.end) {
                    match part {
                        Matrix::Foreign(foreign) => {
                            let made = foreign.rows(first..end);
                            let view = made.view();
                            (first..end).for_each(|row| push_row(stored, &view, source(row) - first, &mut out));
                        }
                        part => (first..end).for_each(|row| push_row(stored, part, source(row), &mut out)),
                    }
                }
            }
        }
        out
    }
}

/// The row that stands at `row` where rotary pairs are neighbours: the inverse of `paired_row`.
fn unpaired_row(row: usize, head_dim: usize) -> usize {
    let (head, at, half) = (row / head_dim, row % head_dim, head_dim / 2);
    head * head_dim + at % 2 * half + at / 2
}

fn settings(model: &Model, source: &Path, items: &[Item<'_>]) -> Result<Vec<(String, Setting)>> {
    let unsupported = |what: String| Error::Unsupported { path: source.to_path_buf(), what };
    let spec = &model.spec;
    let mut bytes = BTreeMap::new();
    for item in items.iter().filter(|item| item.decl.shape.len() > 1) {
        *bytes.entry(describe::file_type(item.decl.stored)).or_insert(0) += item.decl.n_bytes();
    }
    let file_type = bytes.into_iter().max_by_key(|(_, n)| *n).map_or(0, |(file_type, _)| file_type);
    let place = source.canonicalize().unwrap_or_else(|_| source.to_path_buf());
    let name = place.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut all = describe::settings(spec, &name, file_type).map_err(unsupported)?;
    all.extend(vocabulary::settings(&model.files, spec.vocab_size as usize, spec.bos_id, &spec.eos_ids)?);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::foreign::paired_row;

    #[test]
    fn rows_of_heads_go_there_and_back() {
        for head_dim in [2, 4, 64] {
            for row in 0..3 * head_dim {
                assert_eq!(paired_row(unpaired_row(row, head_dim), head_dim), row);
            }
        }
    }
}
