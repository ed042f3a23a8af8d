//! GGUF, versions 2 and 3: `GGUF`, version, counts, metadata, a table of tensors, then their data.
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>
//!
//! Read in this order: this file (the container), [`blocks`] (types of tensors, taken apart), `names` (what tensors are called
//! elsewhere), `configure` with `scaling` (what settings are), `text` with `pre_tokenizers` (the tokenizer), [`open()`] (all of it as a checkpoint), `words`
//! (what is wrong with it).
//! Then the other direction: `write`, [`encode`], `describe` and `vocabulary`.

pub mod blocks;
pub(crate) mod names;
pub(crate) mod configure;
pub(crate) mod scaling;
mod open;
pub(crate) mod words;
mod text;
mod pre_tokenizers;
pub(crate) mod write;
pub mod encode;
pub(crate) mod describe;
pub(crate) mod vocabulary;

pub use open::open;
pub(crate) use open::open_tensors;

use crate::error::{Error, Result};
use blocks::Stored;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes or truth values of a list that are kept: one a layer.
const MAX_FLAGS: u64 = 4096;

/// The first bytes.
const MAGIC: [u8; 4] = *b"GGUF";
/// Values of a list of settings: the largest known vocabularies have some 2^18.
const MAX_VALUES: u64 = 1 << 24;
/// Dimensions of a tensor.
const MAX_DIMS: u32 = 4;
/// Arrays within arrays.
const MAX_NESTING: u32 = 4;

/// Whether a file begins as a GGUF file, or is named as one: what is wrong with it then is told as of one.
pub fn is_gguf(path: &Path) -> bool {
    if path.extension().is_some_and(|end| end == "gguf") {
        return true;
    }
    let mut magic = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && magic == MAGIC
}

/// A tensor of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GgufTensor {
    /// The name.
    pub name: String,
    /// How its numbers are stored.
    pub stored: Stored,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    bytes: Range<usize>,
}

/// A mapped GGUF file with a checked header.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    map: memmap2::Mmap,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<GgufTensor>,
}

impl Gguf {
    /// Maps a file and checks its whole header: afterwards every tensor's bytes lie inside the file and have the size that
    /// type and shape say.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|error| Error::io(path, error))?;
        let map = super::safetensors::map(path, &file)?;
        let (metadata, tensors) = Header::read(&map).map_err(|fault| match fault {
            Fault::Damaged(what) => Error::malformed(path, format!("{what}; the file is damaged, fetch it again")),
            Fault::Foreign(what) => Error::Unsupported { path: path.to_path_buf(), what },
        })?;
        Ok(Self { path: path.to_path_buf(), map, metadata, tensors })
    }
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Settings by key. Whole numbers that a double cannot hold keep their digits; numbers that are not finite are null, and
    /// so are long lists of bytes and truth values, which no model needs and which would take many times their place in the
    /// file.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }
    /// Tensors in the file's order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }
    /// A tensor's bytes.
    pub fn bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.map[tensor.bytes.clone()]
    }
    /// Lets go of the memory that a tensor's bytes take, until somebody looks at them.
    pub(super) fn release(&self, tensor: &GgufTensor) {
        super::safetensors::release(&self.map, tensor.bytes.clone());
    }
    /// Forgets the settings: those of a vocabulary take more memory than their part of the file.
    fn forget_metadata(&mut self) {
        self.metadata.clear();
        let header = self.tensors.iter().map(|tensor| tensor.bytes.start).min().unwrap_or(0);
        super::safetensors::release(&self.map, 0..header);
    }
}

/// Why a header cannot be read.
enum Fault {
    /// It breaks the format.
    Damaged(String),
    /// It is whole, but of a kind that is not read.
    Foreign(String),
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

/// The header's tables. Every count is checked against what is left of the file before anything is allocated.
struct Header<'a> {
    file: &'a [u8],
    at: usize,
}

type Tables = (BTreeMap<String, Value>, Vec<GgufTensor>);

impl<'a> Header<'a> {
    /// The tables of a file's bytes.
    fn read(file: &'a [u8]) -> Result<Tables, Fault> {
        let mut header = Self { file, at: 0 };
        if header.take(4)? != MAGIC {
            return Err(Fault::Damaged("it does not begin with `GGUF`".into()));
        }
        match header.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                let what = "its numbers are big endian, which is not supported; fetch the model's little endian file";
                return Err(Fault::Foreign(what.into()));
            }
            version => {
                return Err(Fault::Foreign(format!(
                    "GGUF version {version} is not supported; 2 and 3 are: fetch a file of these, or convert the model again"
                )));
            }
        }
        let (n_tensors, n_settings) = (header.u64()?, header.u64()?);
        let mut metadata = BTreeMap::new();
        header.check_count(n_settings, 12, "settings")?;
        for _ in 0..n_settings {
            let key = header.text()?;
            let kind = header.u32()?;
            let value = header.value(kind, MAX_NESTING).map_err(|why| format!("setting `{key}`: {why}"))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("setting `{key}` stands twice").into());
            }
        }
        let alignment = match metadata.get("general.alignment").map(|value| value.as_u64()) {
            None => 32,
            Some(Some(n)) if n.is_power_of_two() && n <= 1 << 20 => n as usize,
            Some(other) => return Err(format!("`general.alignment` is {other:?}, no power of two").into()),
        };
        header.check_count(n_tensors, 24, "tensors")?;
        let mut raw = Vec::with_capacity(n_tensors as usize);
        for _ in 0..n_tensors {
            raw.push(header.tensor()?);
        }
        let data_at = header.at.next_multiple_of(alignment);
        let mut seen = BTreeSet::new();
        let mut tensors = Vec::with_capacity(raw.len());
        for (name, stored, shape, offset) in raw {
            let wrong = |what: &str| Fault::Damaged(format!("tensor `{name}` {what}"));
            if shape.contains(&0) {
                return Err(wrong("is empty"));
            }
            let n_cols = shape.last().copied().unwrap_or(1);
            if !n_cols.is_multiple_of(stored.block_len()) {
                return Err(wrong(&format!("has rows of {n_cols}, no whole blocks of {}", stored.name())));
            }
            let n_numbers = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
            let n_bytes = n_numbers.and_then(|n| (n / stored.block_len()).checked_mul(stored.block_bytes()));
            let start = usize::try_from(offset).ok().and_then(|offset| data_at.checked_add(offset));
            let end = start.zip(n_bytes).and_then(|(start, n)| start.checked_add(n));
            let (Some(start), Some(end)) = (start, end.filter(|end| *end <= file.len())) else {
                return Err(wrong("reaches past the end of the file"));
            };
            if !seen.insert(name.clone()) {
                return Err(wrong("stands twice"));
            }
            tensors.push(GgufTensor { name, stored, shape, bytes: start..end });
        }
        // What is made of tensors that share bytes would be a multiple of the file.
        let mut ranges: Vec<_> =
            tensors.iter().map(|tensor| (tensor.bytes.start, tensor.bytes.end, &tensor.name)).collect();
        ranges.sort_unstable();
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            return Err(format!("tensors `{}` and `{}` overlap", pair[0].2, pair[1].2).into());
        }
        Ok((metadata, tensors))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.file.len());
        let end = end.ok_or_else(|| format!("it ends after {} bytes, within its header", self.file.len()))?;
        let bytes = &self.file[self.at..end];
        self.at = end;
        Ok(bytes)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }
    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }
    fn text(&mut self) -> Result<String, String> {
        let n = self.u64()?;
        self.check_count(n, 1, "characters")?;
        // Tokens of some vocabularies are no UTF-8.
        Ok(String::from_utf8_lossy(self.take(n as usize)?).into_owned())
    }
    /// Fails if `n` things of at least `least_bytes` cannot be in the rest of the file.
    fn check_count(&self, n: u64, least_bytes: u64, what: &str) -> Result<(), String> {
        let rest = (self.file.len() - self.at) as u64;
        if n.checked_mul(least_bytes).is_some_and(|bytes| bytes <= rest) {
            return Ok(());
        }
        Err(format!("{n} {what} are announced where {rest} bytes are left"))
    }
    fn value(&mut self, kind: u32, nesting: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => self.array::<1>()?[0].into(),
            1 => (self.array::<1>()?[0] as i8).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            // By way of its shortest digits: 1e-5 stays 1e-5.
            6 => match f32::from_le_bytes(self.array()?) {
                whole if whole.fract() == 0.0 && whole.abs() < 1e7 => f64::from(whole).into(),
                number => format!("{number:?}").parse::<f64>().unwrap_or(f64::NAN).into(),
            },
            7 => (self.array::<1>()?[0] != 0).into(),
            8 => self.text()?.into(),
            9 => {
                let (kind, n) = (self.u32()?, self.u64()?);
                let least = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    8 | 10..=12 => 8,
                    9 if nesting > 0 => 12,
                    9 => return Err("arrays are nested too deeply".into()),
                    kind => return Err(format!("values of type {kind} are not known")),
                };
                self.check_count(n, least, "values")?;
                if n > MAX_VALUES {
                    return Err(format!("a list has {n} values; at most {MAX_VALUES} are taken"));
                }
                if least == 1 && n > MAX_FLAGS {
                    self.take(n as usize)?;
                    return Ok(Value::Null);
                }
                let mut list = Vec::with_capacity(n as usize);
                for _ in 0..n {
                    list.push(self.value(kind, nesting.saturating_sub(1))?);
                }
                list.into()
            }
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => f64::from_le_bytes(self.array()?).into(),
            kind => return Err(format!("values of type {kind} are not known")),
        })
    }
    fn tensor(&mut self) -> Result<(String, Stored, Vec<usize>, u64), Fault> {
        let name = self.text()?;
        let n_dims = self.u32()?;
        if n_dims > MAX_DIMS {
            return Err(format!("tensor `{name}` has {n_dims} dimensions; at most {MAX_DIMS} are known").into());
        }
        let mut shape = Vec::with_capacity(n_dims as usize);
        for _ in 0..n_dims {
            let size = usize::try_from(self.u64()?).map_err(|_| format!("tensor `{name}` is absurdly large"))?;
            shape.push(size);
        }
        // The file has the fastest first.
        shape.reverse();
        let (kind, offset) = (self.u32()?, self.u64()?);
        let stored = Stored::of(kind).ok_or_else(|| {
            Fault::Foreign(format!(
                "tensor `{name}` is of type {kind} ({}), which is not supported; {} are: take the model in another \
                 quantization, e.g. Q4_K_M or Q8_0",
                Stored::foreign_name(kind).unwrap_or("unknown"),
                Stored::names().join(", "),
            ))
        })?;
        Ok((name, stored, shape, offset))
    }
}

/// Reads a header's bytes and throws the result away: what a fuzzer asks for.
///
/// # Errors
/// What is wrong with it.
pub fn check_header(bytes: &[u8]) -> Result<(), String> {
    let done = Header::read(bytes);
    done.map(|_| ()).map_err(|fault| match fault {
        Fault::Damaged(what) | Fault::Foreign(what) => what,
    })
}
