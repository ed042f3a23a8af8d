//! The safetensors format: 8 bytes little endian header length, a JSON header, then the tensors' bytes without gaps.
//! <https://huggingface.co/docs/safetensors>
//!
//! The reader is our own so that a file is mapped once, never copied, and every error names file and tensor.

use crate::error::{Error, Result};
use half::slice::HalfFloatSliceExt;
use ingot_ir::weight::Format;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The format's own cap on its header.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Element type of a stored tensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum StoredType {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    C64,
}

impl StoredType {
    const TABLE: [(Self, &'static str, usize); 17] = [
        (Self::Bool, "BOOL", 1),
        (Self::U8, "U8", 1),
        (Self::I8, "I8", 1),
        (Self::F8E4M3, "F8_E4M3", 1),
        (Self::F8E5M2, "F8_E5M2", 1),
        (Self::F8E8M0, "F8_E8M0", 1),
        (Self::U16, "U16", 2),
        (Self::I16, "I16", 2),
        (Self::F16, "F16", 2),
        (Self::Bf16, "BF16", 2),
        (Self::U32, "U32", 4),
        (Self::I32, "I32", 4),
        (Self::F32, "F32", 4),
        (Self::U64, "U64", 8),
        (Self::I64, "I64", 8),
        (Self::F64, "F64", 8),
        (Self::C64, "C64", 8),
    ];

    fn row(self) -> &'static (Self, &'static str, usize) {
        &Self::TABLE[self as usize]
    }
    /// The name in a file's header, e.g. `BF16`.
    pub fn name(self) -> &'static str {
        self.row().1
    }
    /// Bytes of one element.
    pub fn n_bytes(self) -> usize {
        self.row().2
    }
    /// Reads a header's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }
    /// Whether [`StoredType::to_f32s`] reads it.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }
    /// The same in the words of the IR, if it is F16, BF16 or F32.
    pub(crate) fn float_format(self) -> Format {
        match self {
            Self::F16 => Format::F16,
            Self::Bf16 => Format::Bf16,
            _ => Format::F32,
        }
    }
    /// Widens little-endian elements, aligned or not, to `out`, if they are F16, BF16 or F32.
    ///
    /// # Panics
    /// If there are not as many elements as numbers.
    pub(crate) fn read_f32s(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * self.n_bytes(), "as many elements as numbers");
        match self {
            Self::F16 => {
                let mut block = [half::f16::ZERO; 64];
                for (bytes, out) in bytes.chunks(128).zip(out.chunks_mut(64)) {
                    let block = &mut block[..out.len()];
                    let pairs = block.iter_mut().zip(bytes.as_chunks::<2>().0);
                    pairs.for_each(|(number, bytes)| *number = half::f16::from_le_bytes(*bytes));
                    block.convert_to_f32_slice(out);
                }
            }
            Self::Bf16 => {
                let pairs = out.iter_mut().zip(bytes.as_chunks::<2>().0);
                pairs.for_each(|(out, bytes)| *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16));
            }
            Self::F32 => {
                let pairs = out.iter_mut().zip(bytes.as_chunks::<4>().0);
                pairs.for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
            }
            other => unreachable!("{other} is no type of weights"),
        }
    }
    /// Appends numbers rounded to F32, F16 or BF16, little endian.
    ///
    /// # Panics
    /// If the type is another.
    pub(crate) fn write_f32s(self, numbers: &[f32], out: &mut Vec<u8>) {
        let first = out.len();
        out.resize(first + numbers.len() * self.n_bytes(), 0);
        let out = &mut out[first..];
        match self {
            Self::F16 => {
                let mut block = [half::f16::ZERO; 64];
                for (numbers, out) in numbers.chunks(64).zip(out.chunks_mut(128)) {
                    let block = &mut block[..numbers.len()];
                    block.convert_from_f32_slice(numbers);
                    let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(block);
                    pairs.for_each(|(out, number)| *out = number.to_le_bytes());
                }
            }
            Self::Bf16 => {
                let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(numbers);
                pairs.for_each(|(out, number)| *out = half::bf16::from_f32(*number).to_le_bytes());
            }
            Self::F32 => {
                let pairs = out.as_chunks_mut::<4>().0.iter_mut().zip(numbers);
                pairs.for_each(|(out, number)| *out = number.to_le_bytes());
            }
            other => panic!("{other} is no type of weights"),
        }
    }
    /// Widens little-endian elements, aligned or not, to f32 (f64 is rounded). `None` if the type is not a float or
    /// the bytes are not whole elements.
    pub fn to_f32s(self, bytes: &[u8]) -> Option<Vec<f32>> {
        if !self.is_float() || !bytes.len().is_multiple_of(self.n_bytes()) {
            return None;
        }
        Some(match self {
            Self::F16 => bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Self::Bf16 => bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            _ => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        })
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One tensor of a mapped file. The bytes need not be aligned to the element.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// Element type.
    pub stored: StoredType,
    /// Row-major sizes, slowest first.
    pub shape: &'a [usize],
    /// The elements, little endian; the length is the product of `shape` and the element's size.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// The values widened to f32, or `None` for integers.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        self.stored.to_f32s(self.bytes)
    }
}

#[derive(Debug)]
struct Entry {
    name: String,
    stored: StoredType,
    shape: Vec<usize>,
    /// Byte range in the file.
    start: usize,
    end: usize,
}

/// A mapped safetensors file with a checked header.
#[derive(Debug)]
pub struct Safetensors {
    path: PathBuf,
    map: memmap2::Mmap,
    /// In the order of the data.
    entries: Vec<Entry>,
    metadata: BTreeMap<String, String>,
}

impl Safetensors {
    /// Maps a file and checks its whole header: afterwards every tensor's bytes lie inside the file, cover the data
    /// without overlap or hole, and have the size that type and shape say.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::Missing { path: path.to_path_buf(), what: "no such file; fetch the checkpoint again".into() }
            }
            _ => Error::io(path, error),
        })?;
        let meta = file.metadata().map_err(|error| Error::io(path, error))?;
        if meta.is_dir() {
            return Err(Error::Missing {
                path: path.to_path_buf(),
                what: "is a folder, not a safetensors file".into(),
            });
        }
        if meta.len() < 8 {
            let what = format!("{} bytes; a safetensors file has at least 8; fetch it again", meta.len());
            return Err(Error::malformed(path, what));
        }
        let map = map(path, &file)?;
        let (entries, metadata) = read_header(path, &map)?;
        Ok(Self { path: path.to_path_buf(), map, entries, metadata })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The header's string metadata (`format`, ...).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
    /// Number of tensors.
    pub fn n_tensors(&self) -> usize {
        self.entries.len()
    }
    /// The tensor at `ix` in the order of the data.
    ///
    /// # Panics
    /// If `ix` is not below [`Safetensors::n_tensors`].
    pub fn tensor(&self, ix: usize) -> TensorView<'_> {
        let entry = &self.entries[ix];
        TensorView {
            name: &entry.name,
            stored: entry.stored,
            shape: &entry.shape,
            bytes: &self.map[entry.start..entry.end],
        }
    }
    /// Lets go of the memory that a tensor's bytes take, until somebody looks at them.
    pub(super) fn release(&self, ix: usize) {
        let entry = &self.entries[ix];
        release(&self.map, entry.start..entry.end);
    }
    /// Tensors in the order of the data.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        (0..self.entries.len()).map(|ix| self.tensor(ix))
    }
    /// The tensor of that name. A linear search; a [`super::checkpoint::Checkpoint`] has a table.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors().find(|tensor| tensor.name == name)
    }
}

/// Maps a file for reading.
pub(super) fn map(path: &Path, file: &std::fs::File) -> Result<memmap2::Mmap> {
    // SAFETY: the map is read-only and private to its owner. The file must not be shortened while it is mapped;
    // that holds for every program that maps its weights, and cannot be checked from here.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(file) };
    map.map_err(|error| Error::io(path, error))
}

/// Lets go of the memory that a part of a mapped file takes, where the system can: it is read again when somebody looks.
pub(super) fn release(map: &memmap2::Mmap, bytes: std::ops::Range<usize>) {
    // SAFETY: the map is of a file and read-only, so nothing but a copy of the file's bytes is dropped. Slices of it stay
    // good: a look at them brings the same bytes back.
    #[cfg(unix)]
    #[allow(unsafe_code)]
    let _ = unsafe {
        map.unchecked_advise_range(
            memmap2::UncheckedAdvice::DontNeed,
            bytes.start,
            bytes.end.saturating_sub(bytes.start),
        )
    };
    #[cfg(not(unix))]
    let _ = (map, bytes);
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header as written, duplicates included, which a map would swallow.
struct RawHeader {
    entries: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { entries: Vec::new(), metadata: BTreeMap::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        // MLX writes null where it has none.
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                    } else {
                        let entry =
                            map.next_value().map_err(|error| de::Error::custom(format!("tensor `{name}`: {error}")))?;
                        header.entries.push((name, entry));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

fn read_header(path: &Path, file: &[u8]) -> Result<(Vec<Entry>, BTreeMap<String, String>)> {
    const AGAIN: &str = "the file is truncated or damaged; fetch it again";
    let (length, rest) = file.split_first_chunk::<8>().expect("the caller checked that there are 8 bytes");
    let n_header = u64::from_le_bytes(*length);
    if n_header > MAX_HEADER_BYTES {
        let what =
            format!("a header of {n_header} bytes; the format allows {MAX_HEADER_BYTES}; is this a safetensors file?");
        return Err(Error::malformed(path, what));
    }
    if n_header > rest.len() as u64 {
        let what = format!("the header should have {n_header} bytes, but only {} follow; {AGAIN}", rest.len());
        return Err(Error::malformed(path, what));
    }
    let (header, data) = rest.split_at(n_header as usize);
    let raw: RawHeader = serde_json::from_slice(header)
        .map_err(|error| Error::malformed(path, format!("the header is not a table of tensors: {error}; {AGAIN}")))?;
    let data_at = 8 + header.len();
    let mut entries = Vec::with_capacity(raw.entries.len());
    for (name, entry) in raw.entries {
        entries.push(check_entry(path, name, entry, data_at, data.len())?);
    }
    check_cover(path, &mut entries, data_at, data.len())?;
    Ok((entries, raw.metadata))
}

fn check_entry(path: &Path, name: String, raw: RawEntry, data_at: usize, n_data: usize) -> Result<Entry> {
    let Some(stored) = StoredType::parse(&raw.dtype) else {
        let known: Vec<_> = StoredType::TABLE.iter().map(|row| row.1).collect();
        let what = format!("type `{}` is not known; known are {}", raw.dtype, known.join(", "));
        return Err(Error::tensor(path, name, what));
    };
    let [start, end] = raw.data_offsets;
    if start > end || end > n_data as u64 {
        let what = format!(
            "bytes {start}..{end} lie outside the file's {n_data} data bytes; the file is truncated or damaged; fetch it again"
        );
        return Err(Error::tensor(path, name, what));
    }
    let n_bytes = raw.shape.iter().try_fold(stored.n_bytes() as u64, |product, &size| product.checked_mul(size));
    if n_bytes != Some(end - start) {
        let what = format!("shape {:?} of {stored} does not fill its {} bytes {start}..{end}", raw.shape, end - start);
        return Err(Error::tensor(path, name, what));
    }
    // A zero among the sizes lets the others be anything, so each is checked by itself.
    let shape = raw.shape.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| Error::tensor(path, name.as_str(), format!("shape {:?} is too large", raw.shape)))?;
    Ok(Entry { name, stored, shape, start: data_at + start as usize, end: data_at + end as usize })
}

/// Sorts by position and refuses overlaps, holes and repeated names.
fn check_cover(path: &Path, entries: &mut [Entry], data_at: usize, n_data: usize) -> Result<()> {
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::tensor(path, pair[0], "is described twice in the header"));
    }
    entries.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
    let mut at = data_at;
    for entry in entries.iter() {
        let (start, found) = (entry.start - data_at, at - data_at);
        if entry.start < at {
            let what = format!("begins at data byte {start}, inside the tensor before it, which ends at {found}");
            return Err(Error::tensor(path, entry.name.as_str(), what));
        }
        if entry.start > at {
            let what = format!(
                "begins at data byte {start}, but the tensor before it ends at {found}; the format allows no holes"
            );
            return Err(Error::tensor(path, entry.name.as_str(), what));
        }
        at = entry.end;
    }
    if at != data_at + n_data {
        let what =
            format!("{} data bytes belong to no tensor; the file is damaged; fetch it again", data_at + n_data - at);
        return Err(Error::malformed(path, what));
    }
    Ok(())
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct TensorDecl {
    /// The name.
    pub name: String,
    /// Element type.
    pub stored: StoredType,
    /// Row-major sizes, slowest first.
    pub shape: Vec<usize>,
}

impl TensorDecl {
    /// Bytes of the tensor.
    pub fn n_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.stored.n_bytes()
    }
}

/// Writes a safetensors file tensor by tensor, so that a large one need not fit memory: `fill` gets a tensor's
/// position in `tensors` and its zeroed bytes. The data begins at a multiple of 8.
///
/// # Errors
/// [`Error::Io`].
pub fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: &[TensorDecl],
    mut fill: impl FnMut(usize, &mut [u8]),
) -> Result<()> {
    let io = |error| Error::io(path, error);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(io)?);
    file.write_all(&header(metadata, tensors)).map_err(io)?;
    let mut bytes = Vec::new();
    for (ix, tensor) in tensors.iter().enumerate() {
        bytes.clear();
        bytes.resize(tensor.n_bytes(), 0);
        fill(ix, &mut bytes);
        file.write_all(&bytes).map_err(io)?;
    }
    file.flush().map_err(io)
}

/// What stands before the data: the header's length, and the header with spaces up to a multiple of 8.
pub(crate) fn header(metadata: &BTreeMap<String, String>, tensors: &[TensorDecl]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut at = 0;
    for tensor in tensors {
        let entry = serde_json::json!({
            "dtype": tensor.stored.name(), "shape": tensor.shape, "data_offsets": [at, at + tensor.n_bytes()],
        });
        assert!(header.insert(tensor.name.clone(), entry).is_none(), "tensor {} is written twice", tensor.name);
        at += tensor.n_bytes();
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes
}
