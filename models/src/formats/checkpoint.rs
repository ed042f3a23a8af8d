//! A checkpoint: every `model*.safetensors` of a folder, merged into one table of tensors; or tensors made of another file.

use super::safetensors::{Safetensors, StoredType, TensorView};
use crate::error::{Error, Result};
use crate::files::Files;
use ingot_ir::weight::KFormat;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const INDEX: &str = "model.safetensors.index.json";

/// The mapped weight files of a folder, or tensors in memory.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<Safetensors>,
    made: Vec<MadeTensor>,
    /// Modules whose matrices are GGUF's blocks, taken apart.
    k_formats: BTreeMap<String, KFormat>,
    /// Name -> file (or [`MADE`]), position in the file.
    table: BTreeMap<String, (u32, u32)>,
}

/// A tensor in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MadeTensor {
    /// The name.
    pub name: String,
    /// Element type.
    pub stored: StoredType,
    /// Row-major sizes, slowest first.
    pub shape: Vec<usize>,
    /// The elements, little endian.
    pub bytes: Vec<u8>,
}

/// Stands for the tensors in memory where a file's number would.
const MADE: u32 = u32::MAX;

impl Checkpoint {
    /// Maps every `model*.safetensors` of the folder, in order of names. As in mlx-lm the index does not decide which
    /// files are read; but a file that it names and that is not there is an error, since a download was then cut short.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::check_folder(folder)?;
        let names = weight_files(folder)?;
        check_index(folder)?;
        let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        Self::open_files(folder, &paths)
    }

    /// Maps the given files; `folder` is named in messages.
    pub fn open_files(folder: &Path, paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        let mut table = BTreeMap::new();
        for path in paths {
            let file = Safetensors::open(path)?;
            for (ix, tensor) in file.tensors().enumerate() {
                if let Some((other, _)) = table.insert(tensor.name.to_owned(), (files.len() as u32, ix as u32)) {
                    let other: &Safetensors = &files[other as usize];
                    let what =
                        format!("is also in {}; remove the file that does not belong here", other.path().display());
                    return Err(Error::tensor(file.path(), tensor.name, what));
                }
            }
            files.push(file);
        }
        Ok(Self { folder: folder.to_path_buf(), files, made: Vec::new(), k_formats: BTreeMap::new(), table })
    }

    /// Tensors made of the file `source`, and which modules' codes and scales are GGUF's.
    pub(crate) fn made(source: &Path, made: Vec<MadeTensor>, k_formats: BTreeMap<String, KFormat>) -> Result<Self> {
        let mut table = BTreeMap::new();
        for (ix, tensor) in made.iter().enumerate() {
            if table.insert(tensor.name.clone(), (MADE, ix as u32)).is_some() {
                return Err(Error::tensor(source, &*tensor.name, "stands twice"));
            }
        }
        Ok(Self { folder: source.to_path_buf(), files: Vec::new(), made, k_formats, table })
    }

    /// The format of a module's matrix, if it is one of GGUF's.
    pub(crate) fn k_format(&self, path: &str) -> Option<KFormat> {
        self.k_formats.get(path).copied()
    }

    /// Fails if the path is not a folder.
    pub(crate) fn check_folder(folder: &Path) -> Result<()> {
        let missing = |what: &str| Err(Error::Missing { path: folder.to_path_buf(), what: what.into() });
        match std::fs::metadata(folder) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => missing("is a file; give the folder that holds config.json and model.safetensors"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing(
                "no such folder; give the folder of a checkpoint (config.json, model.safetensors, tokenizer.json)",
            ),
            Err(error) => Err(Error::io(folder, error)),
        }
    }
    /// The folder, or the file that tensors were made of.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
    /// The mapped files in order of names.
    pub fn files(&self) -> &[Safetensors] {
        &self.files
    }
    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(String::as_str)
    }
    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }
    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let &(file, ix) = self.table.get(name)?;
        if file == MADE {
            let MadeTensor { name, stored, shape, bytes } = &self.made[ix as usize];
            return Some(TensorView { name, stored: *stored, shape, bytes });
        }
        Some(self.files[file as usize].tensor(ix as usize))
    }
    /// The tensor of that name, or an error that names it and the folder.
    pub fn require(&self, name: &str) -> Result<TensorView<'_>> {
        self.get(name).ok_or_else(|| Error::MissingTensor {
            path: self.folder.clone(),
            tensor: name.to_owned(),
            hint: format!(
                " (of {} tensors); fetch the checkpoint again, or check that config.json belongs to it",
                self.table.len()
            ),
        })
    }
    /// The file that holds a tensor, else the folder; for messages.
    pub(crate) fn place_of(&self, name: &str) -> &Path {
        let file = self.table.get(name).and_then(|&(file, _)| self.files.get(file as usize));
        file.map_or(self.folder.as_path(), Safetensors::path)
    }
    /// Bytes of all tensors.
    pub fn n_bytes(&self) -> u64 {
        self.names().filter_map(|name| self.get(name)).map(|tensor| tensor.bytes.len() as u64).sum()
    }
}

/// Whether a folder has weights, and every file of weights that its index names.
pub(crate) fn has_all_weights(folder: &Path) -> bool {
    weight_files(folder).is_ok() && check_index(folder).is_ok()
}

/// The names of the folder's weight files, sorted.
fn weight_files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut others = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
        let entry = entry.map_err(|error| Error::io(folder, error))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with("model") && name.ends_with(".safetensors") {
            names.push(name);
        } else if [".gguf", ".bin", ".pt", ".pth", ".npz", ".safetensors"].iter().any(|end| name.ends_with(end)) {
            others.push(name);
        }
    }
    if names.is_empty() {
        others.sort_unstable();
        others.truncate(4);
        let found = if others.is_empty() { String::new() } else { format!(" (found {})", others.join(", ")) };
        let what = format!(
            "no model*.safetensors in this folder{found}; fetch the checkpoint as safetensors, or name a .gguf file itself"
        );
        return Err(Error::Missing { path: folder.to_path_buf(), what });
    }
    names.sort_unstable();
    Ok(names)
}

fn check_index(folder: &Path) -> Result<()> {
    let path = folder.join(INDEX);
    let Some(index) = Files::folder(folder).json(INDEX)? else {
        return Ok(());
    };
    let Some(weight_map) = index.get("weight_map").and_then(serde_json::Value::as_object) else {
        return Err(Error::malformed(&path, "`weight_map` is missing or no object; fetch the file again or delete it"));
    };
    let mut files = std::collections::BTreeSet::new();
    for (tensor, file) in weight_map {
        let plain = file.as_str().filter(|name| !name.is_empty() && !name.contains(['/', '\\']));
        files.insert(plain.ok_or_else(|| {
            Error::tensor(&path, tensor.as_str(), format!("{file} is not the name of a file of this folder"))
        })?);
    }
    match files.into_iter().find(|file| !folder.join(file).is_file()) {
        None => Ok(()),
        Some(file) => Err(Error::Missing {
            path: folder.join(file),
            what: format!("named in {INDEX}, but not there; the download is incomplete, fetch it again"),
        }),
    }
}
