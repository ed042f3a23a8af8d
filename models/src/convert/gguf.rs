//! From a checkpoint to a GGUF file that llama.cpp loads.

use super::in_order::in_order;
use super::part::Part;
use super::stream::{chunk_rows, numbers};
use super::{Converted, counted};
use crate::error::{Error, Result};
use crate::formats::gguf::blocks::Stored;
use crate::formats::gguf::encode::{is_made_of_numbers, lossless_type, push_numbers, push_row};
use crate::formats::gguf::names::{gguf_name, pairs_rows};
use crate::formats::gguf::scaling::FREQS;
use crate::formats::gguf::write::{ALIGN_BYTES, Decl, Setting, header};
use crate::formats::gguf::{describe, vocabulary};
use crate::model::Model;
use crate::weights::{Loaded, Matrix};
use ingot_ir::weight::Source;
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
    /// Rounded to a type.
    Numbers(Matrix<'a>),
    /// Taken over.
    Codes(Matrix<'a>),
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
    let items = items(&model, kind)?;
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
    let architecture = model.spec.architecture;
    let (graph, weights) = (model.graph()?, model.weights());
    let (mut items, mut seen) = (Vec::new(), BTreeSet::new());
    for (_, weight) in graph.weights.iter() {
        let Source::Tensor(path) = &weight.source else { continue };
        if !seen.insert(path.clone()) {
            continue;
        }
        let loaded = weights.load(weight)?;
        let tensor = if matches!(loaded, Loaded::Vector(_)) { path.clone() } else { format!("{path}.weight") };
        let wrong = |what: String| Error::tensor(model.checkpoint.place_of(&tensor), &*tensor, what);
        let name = gguf_name(&tensor, architecture).ok_or_else(|| wrong("has no name in a GGUF file".into()))?;
        let is_paired = ["q_proj", "k_proj"].iter().any(|module| path.contains(module));
        let pairs = (pairs_rows(architecture) && is_paired).then_some(model.spec.head_dim as usize);
        let n_rows = weight.n_rows as usize;
        let (stored, shape, from) = match loaded {
            Loaded::Vector(numbers) => (Stored::F32, vec![n_rows], From::Vector(numbers)),
            Loaded::Matrix(matrix) => {
                let (stored, from) = form(matrix, kind).map_err(wrong)?;
                (stored, vec![n_rows, weight.n_cols as usize], from)
            }
        };
        items.push(Item { decl: Decl { name, stored, shape }, from, pairs });
    }
    if let Some(factors) = describe::rope_factors(&model.spec) {
        let decl = Decl { name: FREQS.into(), stored: Stored::F32, shape: vec![factors.len()] };
        items.push(Item { decl, from: From::Vector(factors), pairs: None });
    }
    Ok(items)
}

/// The type that a matrix gets.
fn form(matrix: Matrix<'_>, kind: GgufType) -> Result<(Stored, From<'_>), String> {
    let float = |matrix: &Matrix<'_>| match matrix.format() {
        ingot_ir::weight::Format::F16 => Some(Stored::F16),
        ingot_ir::weight::Format::Bf16 => Some(Stored::Bf16),
        ingot_ir::weight::Format::F32 => Some(Stored::F32),
        _ => None,
    };
    match kind {
        GgufType::All(stored) if matrix.shape()[1].is_multiple_of(stored.block_len()) => {
            Ok((stored, From::Numbers(matrix)))
        }
        GgufType::All(_) => Ok((Stored::F16, From::Numbers(matrix))),
        GgufType::Repack => match float(&matrix) {
            Some(stored) => Ok((stored, From::Numbers(matrix))),
            None => Ok((lossless(&matrix)?, From::Codes(matrix))),
        },
    }
}

/// The type that holds all of a matrix without loss.
fn lossless(matrix: &Matrix<'_>) -> Result<Stored, String> {
    let Matrix::Foreign(foreign) = matrix else { return lossless_type(matrix) };
    let step = chunk_rows(foreign.n_cols);
    let chunks = (0..foreign.n_rows).step_by(step).map(|first| first..(first + step).min(foreign.n_rows));
    let types: Vec<Stored> = chunks.map(|rows| lossless_type(&foreign.rows(rows).view())).collect::<Result<_, _>>()?;
    // Where one part needs biases, all have them; the first of a pair of types is the one without.
    let with_bias = types.iter().find(|stored| matches!(stored, Stored::Q4_1 | Stored::Q5_1));
    with_bias.or(types.first()).copied().ok_or_else(|| "has no rows".into())
}

impl Item<'_> {
    fn shape(&self) -> [usize; 2] {
        match self.decl.shape[..] {
            [n_rows, n_cols] => [n_rows, n_cols],
            _ => [self.decl.shape[0], 1],
        }
    }

    /// The bytes of some rows; with `pairs` of whole heads.
    fn encode(&self, rows: Range<usize>) -> Vec<u8> {
        // Where row `row` of the file stands in the model.
        let source = |row: usize| self.pairs.map_or(row, |head_dim| unpaired_row(row, head_dim));
        let mut out = Vec::new();
        match &self.from {
            From::Vector(all) => rows.for_each(|row| push_numbers(Stored::F32, &[all[source(row)]], &mut out)),
            From::Numbers(Matrix::Foreign(foreign)) => {
                let made = foreign.rows(rows.clone());
                let all = numbers(&made.view(), 0, rows.len());
                rows.clone().for_each(|row| self.push_numbers(&all, source(row) - rows.start, &mut out));
            }
            From::Numbers(matrix) => {
                let all = numbers(matrix, rows.start, rows.end);
                rows.clone().for_each(|row| self.push_numbers(&all, source(row) - rows.start, &mut out));
            }
            From::Codes(Matrix::Foreign(foreign)) => {
                let made = foreign.rows(rows.clone());
                let matrix = made.view();
                rows.clone().for_each(|row| push_row(self.decl.stored, &matrix, source(row) - rows.start, &mut out));
            }
            From::Codes(matrix) => rows.for_each(|row| push_row(self.decl.stored, matrix, source(row), &mut out)),
        }
        out
    }

    fn push_numbers(&self, all: &[f32], row: usize, out: &mut Vec<u8>) {
        let [_, n_cols] = self.shape();
        push_numbers(self.decl.stored, &all[row * n_cols..][..n_cols], out);
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
