//! Writing an artifact: sizes first, then the weights in one pass from their source through the hash to the file.

use super::fingerprint::fingerprint;
use super::hash::{Hash, N_DIGITS, hash, hash_bytes, hash_head, leaf_ranges};
use super::{
    ALIGN_BYTES, ARTIFACT_VERSION, ArtifactError, HASHES, KIND, LEAF_BYTES, MANIFEST, MAX_HEADER_BYTES, Manifest,
    PAD_WEIGHTS, PAGE_BYTES, PLAN, SourceFile, WeightsAt,
};
use crate::repack::{self, Tensor, TensorBytes};
use ingot_ir::plan::{Plan, PlanWeight};
use ingot_ir::weight::{Format, Layout, Part, ScaleType};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A checkpoint tensor by the name in a plan's segments.
type Tensors<'a> = &'a (dyn Fn(&str) -> Tensor<'a> + Sync);

/// Where an artifact is to have its weights.
pub enum WeightsOf<'a> {
    /// In itself, made from a checkpoint's tensors, whose sizes the caller has checked.
    Tensors(Tensors<'a>),
    /// In these files.
    Sources(Vec<SourceFile>),
    /// The caller knows.
    Elsewhere,
}

/// Leaves in memory at one time, at most: 512 MiB of them.
const MAX_BATCH: usize = 8;

/// Where a tensor's bytes come from.
enum Bytes<'a> {
    Held(Vec<u8>),
    Stored(&'a [u8]),
    Packed(&'a PlanWeight),
    /// A part of a tensor that is made while it is written: its name, and bytes a row.
    Made(&'a str, Part, usize),
    Zeros,
}

/// A tensor of the file.
struct Item<'a> {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    n_bytes: u64,
    bytes: Bytes<'a>,
}

impl<'a> Item<'a> {
    fn held(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        let n_bytes = bytes.len() as u64;
        Self { name: name.into(), dtype: "U8", shape: vec![n_bytes], n_bytes, bytes: Bytes::Held(bytes) }
    }
    fn zeros(name: impl Into<String>, n_bytes: u64) -> Self {
        Self { name: name.into(), dtype: "U8", shape: vec![n_bytes], n_bytes, bytes: Bytes::Zeros }
    }
}

/// Writes an artifact. A file of that name is replaced, and only once the new one is whole. `files` are the checkpoint's
/// small files by name; `progress` is told the weight bytes written and all of them.
///
/// Memory: some 512 MiB for pieces in work, whatever the model's size.
///
/// # Errors
/// [`ArtifactError::Io`], and [`ArtifactError::Invalid`] if the tables exceed the header's limit.
pub fn write<'a>(
    path: &Path,
    plan: &'a Plan,
    eos_ids: &[u32],
    files: &[(String, Vec<u8>)],
    weights: WeightsOf<'a>,
    n_threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ArtifactError> {
    let (at, sources, tensors) = match weights {
        WeightsOf::Tensors(tensors) => (WeightsAt::Inside, Vec::new(), Some(tensors)),
        WeightsOf::Sources(sources) => (WeightsAt::Sources, sources, None),
        WeightsOf::Elsewhere => (WeightsAt::Elsewhere, Vec::new(), None),
    };
    let generator = format!("ingot {}", env!("CARGO_PKG_VERSION"));
    let fingerprint = tensors.and_then(|tensors| fingerprint(plan, &|name| Some(tensors(name))));
    let manifest = Manifest { generator, weights: at, sources, fingerprint, eos_ids: eos_ids.to_vec() };
    let mut items = small_items(plan, &manifest, files);
    let (weights, n_weights) = tensors.map_or((Vec::new(), 0), |tensors| weight_items(plan, tensors));
    let n_leaves = 2 + n_weights.div_ceil(LEAF_BYTES) as usize;
    items.insert(0, Item::zeros(HASHES, n_leaves as u64 * 32));
    let n_small: u64 = items.iter().map(|item| item.n_bytes).sum();
    items.push(Item::zeros(PAD_WEIGHTS, n_small.next_multiple_of(PAGE_BYTES) - n_small));
    let n_small = n_small.next_multiple_of(PAGE_BYTES);
    items.extend(weights);

    let mut head = header(&plan.target, &items);
    if head.len() as u64 > MAX_HEADER_BYTES {
        let what =
            format!("the tables' header would have {} bytes, at most {MAX_HEADER_BYTES} are allowed", head.len());
        return Err(ArtifactError::Invalid { path: path.to_path_buf(), what });
    }
    let io = ArtifactError::io(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".ingot-").tempfile_in(folder).map_err(&io)?;
    let data_at = head.len() as u64;
    let weights_at = data_at + n_small;
    let layout = Layered::new(&items, data_at, tensors);

    // The table of hashes is the last to be known, and stands before all that it covers.
    let table_end = data_at + n_leaves as u64 * 32;
    let mut small = vec![0; (weights_at - table_end) as usize];
    layout.fill(table_end, &mut small);
    let root_at = head.windows(N_DIGITS).position(|digits| digits.iter().all(|digit| *digit == b'0'));
    let root_at = root_at.unwrap_or_else(|| unreachable!("the header was written with a root of zeros"));
    let mut leaves = vec![hash_head(&head, root_at), hash(&small)];
    let out = file.as_file_mut();
    out.seek(SeekFrom::Start(table_end)).map_err(&io)?;
    out.write_all(&small).map_err(&io)?;
    leaves.extend(write_weights(out, &layout, weights_at..weights_at + n_weights, n_threads, progress).map_err(&io)?);

    let table = leaves.concat();
    head[root_at..root_at + N_DIGITS].copy_from_slice(hash_bytes(&table).as_bytes());
    out.seek(SeekFrom::Start(0)).map_err(&io)?;
    out.write_all(&head).map_err(&io)?;
    out.write_all(&table).map_err(&io)?;
    // Temporary files are for their owner alone; an artifact is a file like others.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        out.set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(&io)?;
    }
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

/// Everything but hashes and weights.
fn small_items<'a>(plan: &Plan, manifest: &Manifest, files: &[(String, Vec<u8>)]) -> Vec<Item<'a>> {
    let json =
        |value: serde_json::Result<Vec<u8>>| value.unwrap_or_else(|why| unreachable!("plain data is JSON: {why}"));
    let mut tables = plan.clone();
    let kernels: Vec<(String, Vec<u8>)> = plan
        .kernels
        .ids()
        .map(|id| (format!("kernels/{id}.wgsl"), std::mem::take(&mut tables.kernels[id].wgsl).into_bytes()))
        .filter(|(_, text)| !text.is_empty())
        .collect();
    let mut items = vec![
        Item::held(MANIFEST, json(serde_json::to_vec_pretty(manifest))),
        Item::held(PLAN, json(serde_json::to_vec(&tables))),
    ];
    items.extend(kernels.into_iter().map(|(name, text)| Item::held(name, text)));
    items.extend(files.iter().map(|(name, bytes)| Item::held(format!("files/{name}"), bytes.clone())));
    items
}

/// The weights with the gaps between them, and their bytes in all.
fn weight_items<'a>(plan: &'a Plan, tensors: Tensors<'a>) -> (Vec<Item<'a>>, u64) {
    let mut items = Vec::new();
    let mut n_bytes = 0u64;
    let mut add = |item: Item<'a>| {
        let gap = n_bytes.next_multiple_of(ALIGN_BYTES) - n_bytes;
        if gap > 0 {
            items.push(Item::zeros(format!("pad/{}", items.len()), gap));
        }
        n_bytes += gap + item.n_bytes;
        items.push(item);
    };
    if plan.is_cpu {
        stored_items(plan, tensors).into_values().for_each(add);
    } else {
        for (id, weight) in plan.weights.iter() {
            let n_bytes = weight.n_bytes();
            let dtype = if weight.layout == Layout::Vector { "F32" } else { "U32" };
            let name = format!("weights/{id}");
            add(Item { name, dtype, shape: vec![n_bytes / 4], n_bytes, bytes: Bytes::Packed(weight) });
        }
    }
    (items, n_bytes)
}

/// The checkpoint tensors that a CPU plan reads, by name.
fn stored_items<'a>(plan: &'a Plan, tensors: Tensors<'a>) -> BTreeMap<String, Item<'a>> {
    let mut items = BTreeMap::new();
    for weight in plan.weights.as_slice() {
        let n_cols = u64::from(weight.n_cols);
        let ending = if weight.layout == Layout::Vector { "" } else { ".weight" };
        for segment in &weight.segments {
            let tensor = tensors(&segment.tensor);
            let mut add = |ending: &str, dtype: &'static str, row_bytes: u64, element: u64, bytes: (u64, Bytes<'a>)| {
                let (n_bytes, bytes) = bytes;
                if n_bytes == 0 {
                    return;
                }
                let shape = match weight.layout {
                    Layout::Vector => vec![n_bytes / element],
                    _ => vec![n_bytes / row_bytes, row_bytes / element],
                };
                let name = format!("weights/{}{ending}", segment.tensor);
                items.insert(name.clone(), Item { name, dtype, shape, n_bytes, bytes });
            };
            let row_parts = weight.format.row_parts(weight.n_cols);
            let stored = |bytes: &'a [u8]| (bytes.len() as u64, Bytes::Stored(bytes));
            let part = |part: Part| match &tensor {
                Tensor::Stored(TensorBytes { values, scales, biases, .. }) => stored(match part {
                    Part::Values => values,
                    Part::Scales => scales,
                    Part::Biases => biases,
                }),
                Tensor::Made(made) => {
                    let row_bytes = row_parts.of(part);
                    let n_bytes = u64::from(made.n_rows()) * row_bytes;
                    (n_bytes, Bytes::Made(&segment.tensor, part, row_bytes as usize))
                }
            };
            let values = part(Part::Values);
            match weight.format {
                Format::F32 => add(ending, "F32", n_cols * 4, 4, values),
                Format::F16 => add(ending, "F16", n_cols * 2, 2, values),
                Format::Bf16 => add(ending, "BF16", n_cols * 2, 2, values),
                Format::Affine { scales: kind, .. } => {
                    let dtype = match kind {
                        ScaleType::F16 => "F16",
                        ScaleType::Bf16 => "BF16",
                        ScaleType::F32 => "F32",
                    };
                    add(".weight", "U32", row_parts.values, 4, values);
                    add(".scales", dtype, row_parts.scales, kind.n_bytes(), part(Part::Scales));
                    add(".biases", dtype, row_parts.biases, kind.n_bytes(), part(Part::Biases));
                }
                _ => {
                    add(".weight", "U32", row_parts.values, 4, values);
                    add(".scales", "U8", row_parts.scales, 1, part(Part::Scales));
                    if let Tensor::Stored(TensorBytes { global, .. }) = &tensor {
                        add(".global_scale", "F32", 4, 4, stored(global));
                    }
                }
            }
        }
    }
    items
}

/// The file's first part: length, tables, and spaces up to where data begins. The root is zeros.
fn header(target: &str, items: &[Item<'_>]) -> Vec<u8> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!(
        "{{\"__metadata__\":{{\"kind\":\"{KIND}\",\"root\":\"{}\",\"target\":{},\"version\":\"{ARTIFACT_VERSION}\"}}",
        "0".repeat(N_DIGITS),
        quoted(target),
    );
    let mut at = 0;
    for item in items {
        let shape: Vec<String> = item.shape.iter().map(u64::to_string).collect();
        let end = at + item.n_bytes;
        text += &format!(
            ",\n{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{at},{end}]}}",
            quoted(&item.name),
            item.dtype,
            shape.join(",")
        );
        at = end;
    }
    text.push('}');
    let end = (8 + text.len() as u64).next_multiple_of(PAGE_BYTES) as usize;
    text.extend(std::iter::repeat_n(' ', end - 8 - text.len()));
    let mut head = (text.len() as u64).to_le_bytes().to_vec();
    head.extend_from_slice(text.as_bytes());
    head
}

/// Tensors at their places in the file.
struct Layered<'a, 'b> {
    items: &'b [Item<'a>],
    /// First byte of each item, and the end.
    starts: Vec<u64>,
    tensors: Option<Tensors<'a>>,
}

impl<'a, 'b> Layered<'a, 'b> {
    fn new(items: &'b [Item<'a>], data_at: u64, tensors: Option<Tensors<'a>>) -> Self {
        let mut starts = vec![data_at];
        let mut at = data_at;
        for item in items {
            at += item.n_bytes;
            starts.push(at);
        }
        Self { items, starts, tensors }
    }

    fn source(&self) -> Tensors<'a> {
        self.tensors.unwrap_or_else(|| unreachable!("weights have a source"))
    }

    /// Fills `out` with the file's bytes from `at` on.
    fn fill(&self, at: u64, out: &mut [u8]) {
        let end = at + out.len() as u64;
        let first = self.starts.partition_point(|start| *start <= at).saturating_sub(1);
        let spans = self.items.iter().zip(self.starts.windows(2)).skip(first);
        for (item, span) in spans.take_while(|(_, span)| span[0] < end) {
            let (from, to) = (span[0].max(at), span[1].min(end));
            if from >= to {
                continue;
            }
            let piece = &mut out[(from - at) as usize..(to - at) as usize];
            let offset = from - span[0];
            match &item.bytes {
                Bytes::Held(bytes) => piece.copy_from_slice(&bytes[offset as usize..][..piece.len()]),
                Bytes::Stored(bytes) => piece.copy_from_slice(&bytes[offset as usize..][..piece.len()]),
                Bytes::Zeros => piece.fill(0),
                Bytes::Packed(weight) => repack::fill(weight, self.source(), offset, piece),
                Bytes::Made(name, part, row_bytes) => {
                    self.source()(name).read(*part, *row_bytes, offset as usize, piece);
                }
            }
        }
    }
}

/// Writes the weights leaf by leaf, several in work at one time, and gives their hashes.
fn write_weights(
    file: &mut File,
    layout: &Layered<'_, '_>,
    range: Range<u64>,
    n_threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> std::io::Result<Vec<Hash>> {
    let (start, total) = (range.start, range.end - range.start);
    let ranges = leaf_ranges(range);
    let mut hashes = Vec::with_capacity(ranges.len());
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for batch in ranges.chunks(n_threads.clamp(1, MAX_BATCH)) {
        pieces.resize(batch.len(), Vec::new());
        let first = hashes.len();
        hashes.resize(first + batch.len(), Hash::default());
        let tasks = Mutex::new(pieces.iter_mut().zip(batch).zip(&mut hashes[first..]));
        let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some(((piece, leaf), made)) = next() {
                piece.resize((leaf.end - leaf.start) as usize, 0);
                layout.fill(leaf.start, piece);
                *made = hash(piece);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..batch.len() {
                // Where the system gives no more threads, those that there are do the work.
                drop(std::thread::Builder::new().spawn_scoped(scope, work));
            }
            work();
        });
        for (piece, leaf) in pieces.iter().zip(batch) {
            file.write_all(piece)?;
            progress(leaf.end - start, total);
        }
    }
    Ok(hashes)
}
