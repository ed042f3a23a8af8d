//! A GGUF file (or the parts of a split one) as a checkpoint: tensors under their other names, and the small files that a
//! folder would have.

use super::blocks;
use super::configure;
use super::names::{self, FUSED_QKV, Shape, pairs_rows, whole_norms};
use super::scaling::FREQS;
use super::words::Words;
use super::{Gguf, text};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::formats::checkpoint::{Checkpoint, MadeTensor, Place};
use crate::formats::foreign::paired_row;
use crate::formats::safetensors::StoredType;
use rayon::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Opens a file. Its tensors stay where they are: of those that hold codes, rows are made when they are asked for. Scales
/// alone are read, since the largest decides the type that they get.
///
/// # Errors
/// What is wrong with the file, or not supported.
pub fn open(path: &Path) -> Result<(Checkpoint, Files)> {
    let parts = open_parts(path)?;
    let (config, shape) = configure::config(&parts)?;
    let mut files = BTreeMap::from([("config.json".to_owned(), config.to_string().into_bytes())]);
    let files = match text::read(&parts[0])? {
        None => Files::held(path, files),
        Some((vocabulary, config)) => {
            files.insert("tokenizer_config.json".into(), config);
            Files::held(path, files).with_vocabulary(vocabulary)
        }
    };
    Ok((checkpoint(path, parts, &shape)?, files))
}

/// The tensors of a file's parts, all of which are given. `source` is named in messages.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_tensors(source: &Path, parts: &[PathBuf]) -> Result<Checkpoint> {
    let parts: Vec<Gguf> = parts.iter().map(|part| Gguf::open(part)).collect::<Result<_>>()?;
    let (_, shape) = configure::config(&parts)?;
    checkpoint(source, parts, &shape)
}

fn checkpoint(source: &Path, mut parts: Vec<Gguf>, shape: &Shape) -> Result<Checkpoint> {
    let all = |part: usize| (0..parts[part].tensors().len()).map(move |ix| (part, ix));
    let tensors: Vec<(usize, usize)> = (0..parts.len()).flat_map(all).collect();
    let placed = |(part, ix): (usize, usize)| {
        let file: &Gguf = &parts[part];
        let wanted = file.tensors()[ix].name != FREQS;
        wanted.then(|| place(file, (part as u32, ix as u32), shape))
    };
    let places = tensors.into_par_iter().filter_map(placed).collect::<Result<Vec<_>>>()?;
    let places = places.into_iter().flatten().collect();
    let words = Words::of(&parts[0], shape.architecture);
    parts.iter_mut().for_each(Gguf::forget_metadata);
    Checkpoint::of_gguf(source, parts, places, words)
}

/// The file, or all parts of the model that it is one of.
fn open_parts(path: &Path) -> Result<Vec<Gguf>> {
    let file = Gguf::open(path)?;
    let number = |key: &str| file.metadata().get(key).and_then(Value::as_u64);
    let n_parts = number("split.count").unwrap_or(1);
    if n_parts <= 1 {
        return Ok(vec![file]);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let ending = format!("-of-{n_parts:05}.gguf");
    let stem = name.strip_suffix(&ending).and_then(|name| name.get(..name.len().checked_sub(6)?));
    let Some(stem) = stem.filter(|_| n_parts <= 10_000) else {
        let what = format!("is one of {n_parts} parts, so its name must end in -00001{ending}");
        return Err(Error::Missing { path: path.to_path_buf(), what });
    };
    // Settings are in the first part.
    let part = |ix: u64| -> PathBuf { path.with_file_name(format!("{stem}-{:05}{ending}", ix + 1)) };
    (0..n_parts).map(|ix| Gguf::open(&part(ix))).collect()
}

/// What a tensor is called elsewhere, and how it is read. Queries, keys and values in one tensor are three.
fn place(file: &Gguf, at: (u32, u32), shape: &Shape) -> Result<Vec<(String, Place)>> {
    let tensor = &file.tensors()[at.1 as usize];
    let wrong = |what: &str| Error::tensor(file.path(), &*tensor.name, what);
    let (path, ending) =
        names::module(&tensor.name, shape.architecture).ok_or_else(|| wrong("is not one that the architecture has"))?;
    let (n_rows, n_cols) = match tensor.shape[..] {
        // A layer's experts, one below the other.
        [n_experts, n_rows, n_cols] => (n_experts.saturating_mul(n_rows), n_cols),
        [n_rows, n_cols] => (n_rows, n_cols),
        [n_rows] => (n_rows, 1),
        _ => return Err(wrong("is neither a vector, nor a matrix, nor a stack of them")),
    };
    let Some(layer) = path.strip_suffix(FUSED_QKV) else {
        return Ok(vec![place_rows(file, at, shape, &path, ending, 0..n_rows, n_cols)?]);
    };
    let parts = [("q_proj", shape.n_heads), ("k_proj", shape.n_kv_heads), ("v_proj", shape.n_kv_heads)];
    let n_heads: usize = parts.iter().map(|(_, n_heads)| n_heads).sum();
    if n_rows != n_heads * shape.head_dim {
        return Err(wrong(&format!("has {n_rows} rows for {n_heads} heads of {}", shape.head_dim)));
    }
    let mut end = 0;
    let part = |(name, n_heads): (&str, usize)| {
        let first = end;
        end += n_heads * shape.head_dim;
        place_rows(file, at, shape, &format!("{layer}self_attn.{name}"), ending, first..end, n_cols)
    };
    parts.into_iter().map(part).collect()
}

/// The same of some rows of a tensor, which are a module's.
fn place_rows(
    file: &Gguf,
    at: (u32, u32),
    shape: &Shape,
    path: &str,
    ending: &str,
    rows: Range<usize>,
    n_cols: usize,
) -> Result<(String, Place)> {
    let tensor = &file.tensors()[at.1 as usize];
    let wrong = |what: &str| Error::tensor(file.path(), &*tensor.name, what);
    let n_heads = match path {
        path if path.ends_with("q_proj") => shape.n_heads,
        path if path.ends_with("k_proj") => shape.n_kv_heads,
        _ => 0,
    };
    let n_rows = rows.len();
    let pairs = (pairs_rows(shape.architecture) && n_heads > 0).then_some(shape.head_dim);
    if pairs.is_some() && (n_rows != n_heads * shape.head_dim || !shape.head_dim.is_multiple_of(2)) {
        return Err(wrong(&format!("has {n_rows} rows for {n_heads} heads of {}", shape.head_dim)));
    }
    let name = format!("{path}.{ending}");
    let is_whole = n_rows * n_cols == tensor.shape.iter().product::<usize>();
    let format = match tensor.stored.float() {
        Some(stored) if tensor.shape.len() == 1 => {
            let all = file.bytes(tensor);
            if whole_norms(shape.architecture) && path.ends_with("norm") {
                return Ok((name, Place::Made(offset_norm(stored, n_rows, all))));
            }
            if pairs.is_none() && is_whole {
                return Ok((name, Place::Gguf(at)));
            }
            let size = stored.n_bytes();
            let row = |row: usize| rows.start + pairs.map_or(row, |head_dim| paired_row(row, head_dim));
            let bytes = (0..n_rows).flat_map(|ix| &all[row(ix) * size..][..size]).copied().collect();
            return Ok((name, Place::Made(MadeTensor { stored, shape: vec![n_rows], bytes })));
        }
        Some(_) if pairs.is_none() && is_whole => return Ok((name, Place::Gguf(at))),
        Some(stored) => stored.float_format(),
        None if tensor.shape.len() == 1 => return Err(wrong("is a vector of blocks")),
        None => blocks::format_of(tensor.stored, file.bytes(tensor)).ok_or_else(|| wrong("has no blocks"))?,
    };
    let in_words = u32::try_from(n_cols).is_ok_and(|n| format.takes_cols(n) && format.row_parts(n).values % 4 == 0);
    if u32::try_from(n_rows).is_err() || (format.is_quantized() && !in_words) {
        return Err(wrong(&format!("has {n_rows} rows of {n_cols}, which are no whole words")));
    }
    if ending != "weight" {
        return Err(wrong("is a matrix where a vector belongs"));
    }
    Ok((name, Place::Blocks { at, rows, format, pairs }))
}

/// A norm's weights without the 1 that the converter added. Sums that it rounded to f32 come back as they were when 1 is added
/// again.
fn offset_norm(stored: StoredType, n: usize, bytes: &[u8]) -> MadeTensor {
    let mut numbers = vec![0.0; n];
    stored.read_f32s(bytes, &mut numbers);
    let bytes = numbers.iter().flat_map(|number| (number - 1.0).to_le_bytes()).collect();
    MadeTensor { stored: StoredType::F32, shape: vec![n], bytes }
}
