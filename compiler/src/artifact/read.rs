//! Reading an artifact: everything is checked before anything is used.

use super::hash::{N_DIGITS, first_damaged, hash, hash_bytes, hash_file, hash_head, leaf_ranges};
use super::{
    ALIGN_BYTES, ARTIFACT_VERSION, ArtifactError, HASHES, KIND, MANIFEST, MAX_HEADER_BYTES, Manifest, PAD_WEIGHTS,
    PAGE_BYTES, PLAN, WeightsAt,
};
use crate::link;
use crate::repack::TensorBytes;
use ingot_ir::plan::{BlobId, PLAN_VERSION, Plan};
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, SafeTensorError};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An opened artifact: mapped, its plan and small parts verified. Its weights are verified by
/// [`Artifact::verify_weights`].
#[derive(Debug)]
pub struct Artifact {
    path: PathBuf,
    map: memmap2::Mmap,
    plan: Plan,
    manifest: Manifest,
    root: String,
    /// Byte ranges in the file by tensor name.
    tensors: BTreeMap<String, Range<usize>>,
    /// Byte ranges of the weights' leaves.
    leaves: Vec<Range<u64>>,
}

impl Artifact {
    /// Opens and checks a file.
    ///
    /// # Errors
    /// [`ArtifactError`], which says what is wrong with the file and what to do.
    pub fn open(path: &Path) -> Result<Self, ArtifactError> {
        let io = ArtifactError::io(path);
        let file = File::open(path).map_err(&io)?;
        if !file.metadata().map_err(&io)?.is_file() {
            return Err(ArtifactError::NotArtifact { path: path.into(), why: "it is no file".into() });
        }
        // SAFETY: the map is read-only and private to this value. The file must not be shortened while it is mapped;
        // that holds for every program that maps its weights, and cannot be checked from here.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(&io)?;
        let at = |range: &Range<usize>| &map[range.clone()];

        let header = Header::read(path, &map)?;
        let Header { tensors, root, root_at, data_at } = header;
        let part = |name: &'static str| {
            let missing = || ArtifactError::Invalid { path: path.into(), what: format!("it has no `{name}`") };
            tensors.get(name).cloned().ok_or_else(missing)
        };
        let corrupt = |part: &str| ArtifactError::Corrupt { path: path.into(), part: part.into() };
        let invalid = |what: String| ArtifactError::Invalid { path: path.into(), what };
        let (table, weights_at) = (part(HASHES)?, part(PAD_WEIGHTS)?.end);
        let leaves = leaf_ranges(weights_at as u64..map.len() as u64);
        if table.start != data_at || table.end > weights_at || table.len() != (leaves.len() + 2) * 32 {
            return Err(invalid(format!("`{HASHES}` is not where it must be or has a wrong size")));
        }
        if hash_bytes(at(&table)) != root {
            return Err(corrupt("the table of hashes"));
        }
        let (expected, _) = map[table.clone()].as_chunks::<32>();
        if hash_head(&map[..data_at], root_at) != expected[0] {
            return Err(corrupt("the header"));
        }
        if hash(&map[table.end..weights_at]) != expected[1] {
            return Err(corrupt("the plan or a file beside it"));
        }
        let manifest: Manifest = serde_json::from_slice(at(&part(MANIFEST)?))
            .map_err(|error| invalid(format!("`{MANIFEST}` cannot be read ({error})")))?;
        let plan = read_plan(path, at(&part(PLAN)?), &tensors, &map)?;
        let artifact = Self { path: path.into(), plan, manifest, root, tensors, leaves, map };
        artifact.check_weights(weights_at)?;
        Ok(artifact)
    }

    /// Whether a file begins as an artifact does; any file may be asked.
    pub fn is_one(path: &Path) -> bool {
        let read = || -> std::io::Result<bool> {
            use std::io::Read;
            let mut start = [0; 64];
            let n = File::open(path)?.read(&mut start)?;
            let sign = format!("{{\"__metadata__\":{{\"kind\":\"{KIND}\"");
            Ok(start[..n].get(8..).is_some_and(|text| text.starts_with(sign.as_bytes())))
        };
        read().unwrap_or(false)
    }

    /// The weights that the plan names are there, in full and at their alignment.
    fn check_weights(&self, weights_at: usize) -> Result<(), ArtifactError> {
        if self.manifest.weights != WeightsAt::Inside || self.plan.is_cpu {
            return Ok(());
        }
        for (id, weight) in self.plan.weights.iter() {
            let found = self.tensors.get(&format!("weights/{id}"));
            let right = found.is_some_and(|range| {
                range.start >= weights_at
                    && range.len() as u64 == weight.n_bytes()
                    && (range.start as u64).is_multiple_of(ALIGN_BYTES)
            });
            if !right {
                let what = format!("`weights/{id}` is missing, misplaced or not of {} bytes", weight.n_bytes());
                return Err(ArtifactError::Invalid { path: self.path.clone(), what });
            }
        }
        Ok(())
    }

    /// Compares weights with their hashes on up to `n_threads` threads: those inside, or those of the source files.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] with the first damaged weights; [`ArtifactError::Source`].
    pub fn verify_weights(&self, n_threads: usize) -> Result<(), ArtifactError> {
        self.check_sources()?;
        for source in &self.manifest.sources {
            let wrong =
                |why: String| ArtifactError::Source { path: self.path.clone(), source_file: source.path.clone(), why };
            let found = hash_file(&source.path).map_err(|error| wrong(format!("cannot be read ({error})")))?;
            if found != source.blake3 {
                return Err(wrong("has another content than when the plan was compiled".into()));
            }
        }
        let table = &self.map[self.tensors[HASHES].clone()][64..];
        let Some(ix) = first_damaged(&self.map, &self.leaves, table, n_threads) else { return Ok(()) };
        let leaf = &self.leaves[ix];
        let inside = |range: &Range<usize>| (range.start as u64) < leaf.end && (range.end as u64) > leaf.start;
        let mut names: Vec<&str> =
            self.tensors.iter().filter(|(_, range)| inside(range)).map(|(name, _)| name.as_str()).collect();
        names.sort_by_key(|name| self.tensors[*name].start);
        let (first, last) = (names.first().copied().unwrap_or("weights"), names.last().copied().unwrap_or_default());
        let part = format!("a byte of {} .. {} (`{first}` to `{last}`)", leaf.start, leaf.end);
        Err(ArtifactError::Corrupt { path: self.path.clone(), part })
    }

    /// The sources of a plan-only artifact are there and have their sizes.
    ///
    /// # Errors
    /// [`ArtifactError::Source`].
    pub fn check_sources(&self) -> Result<(), ArtifactError> {
        for source in &self.manifest.sources {
            let why = match std::fs::metadata(&source.path) {
                // A device or a pipe would be read for ever.
                Ok(meta) if !meta.is_file() => "is no file".into(),
                Ok(meta) if meta.len() == source.n_bytes => continue,
                Ok(meta) => format!("has {} bytes instead of {}", meta.len(), source.n_bytes),
                Err(error) => format!("cannot be read ({error})"),
            };
            return Err(ArtifactError::Source { path: self.path.clone(), source_file: source.path.clone(), why });
        }
        Ok(())
    }

    /// Whether every kernel is the text that this compiler links for its spec. Others must keep their bounds checks.
    pub fn is_trusted(&self) -> bool {
        self.plan.is_cpu || self.plan.kernels.as_slice().iter().all(link::is_ours)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Bytes of the file.
    pub fn n_bytes(&self) -> u64 {
        self.map.len() as u64
    }
    /// The hash of the whole file.
    pub fn root(&self) -> &str {
        &self.root
    }
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
    /// The plan alone.
    pub fn into_plan(self) -> Plan {
        self.plan
    }
    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    /// A GPU weight as kernels read it. `None` if weights are not inside.
    pub fn weight(&self, id: BlobId) -> Option<&[u8]> {
        self.tensors.get(&format!("weights/{id}")).map(|range| &self.map[range.clone()])
    }
    /// A checkpoint tensor of a CPU plan by the name in the plan's segments.
    pub fn tensor(&self, name: &str) -> Option<TensorBytes<'_>> {
        let part =
            |ending: &str| self.tensors.get(&format!("weights/{name}{ending}")).map(|range| &self.map[range.clone()]);
        if let Some(values) = part("") {
            return Some(TensorBytes { values, ..TensorBytes::default() });
        }
        let or_none = |ending: &str| part(ending).unwrap_or(&[]);
        let (scales, biases, global) = (or_none(".scales"), or_none(".biases"), or_none(".global_scale"));
        Some(TensorBytes { values: part(".weight")?, scales, biases, global })
    }
    /// The checkpoint's small files: name and bytes.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.tensors.iter().filter_map(|(name, range)| Some((name.strip_prefix("files/")?, &self.map[range.clone()])))
    }
}

/// What the first part of a file says.
struct Header {
    tensors: BTreeMap<String, Range<usize>>,
    root: String,
    root_at: usize,
    data_at: usize,
}

impl Header {
    fn read(path: &Path, file: &[u8]) -> Result<Self, ArtifactError> {
        let not = |why: &str| ArtifactError::NotArtifact { path: path.into(), why: why.into() };
        let truncated = |why: String| ArtifactError::Truncated { path: path.into(), why };
        let Some((length, rest)) = file.split_first_chunk::<8>() else {
            return Err(not("it has fewer than 8 bytes"));
        };
        let n_header = u64::from_le_bytes(*length);
        let sign = format!("{{\"__metadata__\":{{\"kind\":\"{KIND}\"");
        if !rest.starts_with(sign.as_bytes()) {
            return Err(not("its header does not begin as one"));
        }
        if n_header > MAX_HEADER_BYTES {
            let what = format!("its header claims {n_header} bytes, at most {MAX_HEADER_BYTES} are allowed");
            return Err(ArtifactError::Invalid { path: path.into(), what });
        }
        if n_header > rest.len() as u64 {
            return Err(truncated(format!("the header should have {n_header} bytes, {} follow", rest.len())));
        }
        let (_, metadata) = SafeTensors::read_metadata(file).map_err(|error| match error {
            SafeTensorError::MetadataIncompleteBuffer => {
                truncated(format!("its {} bytes are not as many as its header describes", file.len()))
            }
            other => ArtifactError::Corrupt { path: path.into(), part: format!("the header ({other})") },
        })?;
        let data_at = 8 + n_header as usize;
        let root = checked_metadata(path, &metadata)?;
        let head = &file[..data_at];
        let key = format!("\"root\":\"{root}\"");
        let found = head.windows(key.len()).position(|text| text == key.as_bytes());
        let hex = root.len() == N_DIGITS && root.bytes().all(|digit| digit.is_ascii_hexdigit());
        let (Some(key_at), true, true) = (found, hex, (data_at as u64).is_multiple_of(PAGE_BYTES)) else {
            return Err(ArtifactError::Corrupt { path: path.into(), part: "the header".into() });
        };
        let tensors = metadata.tensors().into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            (name, data_at + start..data_at + end)
        });
        Ok(Self { tensors: tensors.collect(), root, root_at: key_at + "\"root\":\"".len(), data_at })
    }
}

/// The root, if kind and version are ours.
fn checked_metadata(path: &Path, metadata: &Metadata) -> Result<String, ArtifactError> {
    let none = Default::default();
    let table = metadata.metadata().as_ref().unwrap_or(&none);
    let value = |key: &str| table.get(key).cloned().unwrap_or_default();
    if value("version") != ARTIFACT_VERSION.to_string() {
        let (path, found) = (path.into(), value("version"));
        return Err(ArtifactError::Version { path, what: "the artifact", found, known: ARTIFACT_VERSION });
    }
    Ok(value("root"))
}

/// The plan with its kernels' text, checked by its own rules.
fn read_plan(
    path: &Path,
    json: &[u8],
    tensors: &BTreeMap<String, Range<usize>>,
    file: &[u8],
) -> Result<Plan, ArtifactError> {
    let invalid = |what: String| ArtifactError::Invalid { path: path.into(), what };
    /// Enough of a plan to tell its version.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let versioned: Versioned =
        serde_json::from_slice(json).map_err(|error| invalid(format!("`{PLAN}` cannot be read ({error})")))?;
    if versioned.version != PLAN_VERSION {
        let (path, found) = (path.into(), versioned.version.to_string());
        return Err(ArtifactError::Version { path, what: "the plan", found, known: PLAN_VERSION });
    }
    let mut plan: Plan =
        serde_json::from_slice(json).map_err(|error| invalid(format!("`{PLAN}` cannot be read ({error})")))?;
    for id in plan.kernels.ids() {
        let Some(range) = tensors.get(&format!("kernels/{id}.wgsl")) else {
            if plan.is_cpu {
                continue;
            }
            return Err(invalid(format!("kernel {id} has no text")));
        };
        let text = std::str::from_utf8(&file[range.clone()]);
        plan.kernels[id].wgsl = text.map_err(|_| invalid(format!("kernel {id} is not UTF-8 text")))?.to_owned();
    }
    plan.verify().map_err(|error| invalid(format!("the plan breaks a rule: {error}")))?;
    Ok(plan)
}
