//! A GGUF file (or the parts of a split one) as a checkpoint: tensors under their other names, and the small files that a
//! folder would have.

use super::blocks::{self, Stored};
use super::names::{self, FREQS, Shape};
use super::{Gguf, GgufTensor, text};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::formats::checkpoint::{Checkpoint, MadeTensor};
use crate::formats::safetensors::StoredType;
use ingot_ir::weight::{Format, KFormat};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes that a thread takes apart at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Opens a file. Quantized tensors are taken apart in memory, in parallel; the others are copied.
///
/// # Errors
/// What is wrong with the file, or not supported.
pub fn open(path: &Path) -> Result<(Checkpoint, Files)> {
    let parts = open_parts(path)?;
    let first = &parts[0];
    let (config, shape) = names::config(&parts)?;
    let mut files = BTreeMap::new();
    files.insert("config.json".to_owned(), config.to_string().into_bytes());
    files.extend(text::files(first)?);
    let mut made = Vec::new();
    let mut k_formats = BTreeMap::new();
    for part in &parts {
        for tensor in part.tensors().iter().filter(|tensor| tensor.name != FREQS) {
            convert(part, tensor, &shape, &mut made, &mut k_formats)?;
        }
    }
    Ok((Checkpoint::made(path, made, k_formats)?, Files::held(path, files)))
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

/// Rows of q and k of which rotary pairs are neighbours, in the order in which they are half a head apart: the file's row of
/// row `row`.
fn file_row(row: usize, head_dim: usize) -> usize {
    let (head, at, half) = (row / head_dim, row % head_dim, head_dim / 2);
    head * head_dim + 2 * (at % half) + at / half
}

fn convert(
    file: &Gguf,
    tensor: &GgufTensor,
    shape: &Shape,
    made: &mut Vec<MadeTensor>,
    k_formats: &mut BTreeMap<String, KFormat>,
) -> Result<()> {
    let wrong = |what: &str| Error::tensor(file.path(), &*tensor.name, what);
    let (path, ending) =
        names::module(&tensor.name, shape).ok_or_else(|| wrong("is not one that the architecture has"))?;
    let n_heads = match &path {
        path if path.ends_with("q_proj") => shape.n_heads,
        path if path.ends_with("k_proj") => shape.n_kv_heads,
        _ => 0,
    };
    let (n_rows, n_cols) = match tensor.shape[..] {
        [n_rows, n_cols] => (n_rows, n_cols),
        [n_rows] => (n_rows, 1),
        _ => return Err(wrong("is neither a vector nor a matrix")),
    };
    let reorders = shape.pairs_rows && n_heads > 0;
    if reorders && (n_rows != n_heads * shape.head_dim || !shape.head_dim.is_multiple_of(2)) {
        return Err(wrong(&format!("has {n_rows} rows for {n_heads} heads of {}", shape.head_dim)));
    }
    let is_vector = tensor.shape.len() == 1;
    let (block_len, block_bytes) = (tensor.stored.block_len(), tensor.stored.block_bytes());
    if is_vector && block_len > 1 {
        return Err(wrong("is a vector of blocks"));
    }
    let row_bytes = if is_vector { block_bytes } else { n_cols / block_len * block_bytes };
    let bytes = file.bytes(tensor);
    let source = |row: usize| {
        let row = if reorders { file_row(row, shape.head_dim) } else { row };
        &bytes[row * row_bytes..][..row_bytes]
    };
    if shape.whole_norms
        && is_vector
        && path.ends_with("norm")
        && let Some(stored) = tensor.stored.float()
    {
        let mut numbers = vec![0.0; n_rows];
        stored.read_f32s(bytes, &mut numbers);
        // What the converter added; sums that it rounded to f32 come back as they were when 1 is added again.
        let bytes = numbers.iter().flat_map(|number| (number - 1.0).to_le_bytes()).collect();
        made.push(MadeTensor { name: format!("{path}.{ending}"), stored: StoredType::F32, shape: vec![n_rows], bytes });
        return Ok(());
    }
    if let Some(stored) = tensor.stored.float() {
        let bytes = if reorders { (0..n_rows).flat_map(source).copied().collect() } else { bytes.to_vec() };
        made.push(MadeTensor { name: format!("{path}.{ending}"), stored, shape: tensor.shape.clone(), bytes });
        return Ok(());
    }
    let format = blocks::format_of(tensor.stored, bytes).ok_or_else(|| wrong("has no blocks"))?;
    let parts = apart(tensor.stored, format, n_rows, row_bytes, &source);
    let mut push = |part: &str, stored: StoredType, n: usize, bytes: Vec<u8>| {
        made.push(MadeTensor { name: format!("{path}.{part}"), stored, shape: vec![n_rows, n], bytes });
    };
    let row = format.row_parts(n_cols as u32);
    if !row.values.is_multiple_of(4) {
        return Err(wrong(&format!("has rows of {n_cols}, which are no whole words")));
    }
    push("weight", StoredType::U32, row.values as usize / 4, parts.values);
    match format {
        Format::Affine { scales, .. } => {
            let stored = if scales.n_bytes() == 2 { StoredType::F16 } else { StoredType::F32 };
            push("scales", stored, n_cols / 32, parts.scales);
            push("biases", stored, n_cols / 32, parts.biases);
        }
        _ => push("scales", StoredType::U8, row.scales as usize, parts.scales),
    }
    if let Format::K(k) = format {
        k_formats.insert(path, k);
    }
    Ok(())
}

/// All rows, taken apart in parallel.
fn apart<'a>(
    stored: Stored,
    format: Format,
    n_rows: usize,
    row_bytes: usize,
    source: &(dyn Fn(usize) -> &'a [u8] + Sync),
) -> blocks::Apart {
    let chunk_rows = (CHUNK_BYTES / row_bytes.max(1)).max(1);
    let firsts: Vec<usize> = (0..n_rows).step_by(chunk_rows).collect();
    let chunks: Vec<blocks::Apart> = firsts
        .into_par_iter()
        .map(|first| {
            let mut all = blocks::Apart::default();
            let end = (first + chunk_rows).min(n_rows);
            (first..end).for_each(|row| all.push(stored, format, source(row)));
            all
        })
        .collect();
    let join = |part: fn(&blocks::Apart) -> &[u8]| {
        let mut bytes = Vec::with_capacity(chunks.iter().map(|chunk| part(chunk).len()).sum());
        chunks.iter().for_each(|chunk| bytes.extend_from_slice(part(chunk)));
        bytes
    };
    blocks::Apart {
        values: join(|chunk| &chunk.values),
        scales: join(|chunk| &chunk.scales),
        biases: join(|chunk| &chunk.biases),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_come_from_even_and_odd_ones() {
        let rows: Vec<usize> = (0..8).map(|row| file_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
