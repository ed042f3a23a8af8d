//! A checkpoint: every `model*.safetensors` of a folder, merged into one table of tensors; or the tensors of a GGUF file.

use super::foreign::{Foreign, Form};
use super::gguf::words::Words;
use super::gguf::{self, Gguf};
use super::packed::{PackedView, Packer};
use super::safetensors::{Safetensors, StoredType, TensorView};
use crate::error::{Error, Result};
use crate::files::Files;
use ingot_ir::weight::Format;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

const INDEX: &str = "model.safetensors.index.json";

/// The mapped weight files of a model.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<Safetensors>,
    gguf: Vec<Gguf>,
    /// What a GGUF file calls things.
    words: Option<Words>,
    /// By name; matrices in forms of other engines by `path.weight`.
    table: BTreeMap<String, Place>,
}

/// Where a tensor is.
#[derive(Debug)]
pub(crate) enum Place {
    /// File, and position in it.
    Safetensors((u32, u32)),
    /// Part of a GGUF file, and position in it.
    Gguf((u32, u32)),
    /// Rows of blocks of a GGUF file, see [`Form::Blocks`]: some of a tensor, or all, those of a stack one below the other.
    Blocks { at: (u32, u32), rows: Range<usize>, format: Format, pairs: Option<usize> },
    /// Tensors of AWQ or GPTQ, each by file and position.
    Packed { packer: Packer, weight: (u32, u32), zeros: Option<(u32, u32)>, scales: (u32, u32) },
    /// In memory: what is small.
    Made(MadeTensor),
}

/// A tensor in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MadeTensor {
    /// Element type.
    pub stored: StoredType,
    /// Row-major sizes, slowest first.
    pub shape: Vec<usize>,
    /// The elements, little endian.
    pub bytes: Vec<u8>,
}

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

    /// Maps the given files: safetensors, or all parts of a GGUF file. `folder` is named in messages.
    pub fn open_files(folder: &Path, paths: &[PathBuf]) -> Result<Self> {
        if paths.iter().any(|path| gguf::is_gguf(path)) {
            return gguf::open_tensors(folder, paths);
        }
        let mut files = Vec::with_capacity(paths.len());
        let mut table = BTreeMap::new();
        for path in paths {
            let file = Safetensors::open(path)?;
            for (ix, tensor) in file.tensors().enumerate() {
                let place = Place::Safetensors((files.len() as u32, ix as u32));
                if let Some(Place::Safetensors((other, _))) = table.insert(tensor.name.to_owned(), place) {
                    let other: &Safetensors = &files[other as usize];
                    let what =
                        format!("is also in {}; remove the file that does not belong here", other.path().display());
                    return Err(Error::tensor(file.path(), tensor.name, what));
                }
            }
            files.push(file);
        }
        Ok(Self { folder: folder.to_path_buf(), files, gguf: Vec::new(), words: None, table })
    }

    /// The tensors of a GGUF file's parts; matrices of blocks by their modules' paths, others by their names.
    pub(crate) fn of_gguf(source: &Path, parts: Vec<Gguf>, places: Vec<(String, Place)>, words: Words) -> Result<Self> {
        let mut table = BTreeMap::new();
        for (name, place) in places {
            if table.contains_key(&name) {
                let what = "stands twice, by itself or as a part of another; convert the model again";
                return Err(words.tell(Error::tensor(source, name, what), source));
            }
            table.insert(name, place);
        }
        Ok(Self { folder: source.to_path_buf(), files: Vec::new(), gguf: parts, words: Some(words), table })
    }

    /// The matrix of a module, if it is stored in another engine's form.
    pub fn foreign(&self, path: &str) -> Option<Foreign<'_>> {
        match self.table.get(&format!("{path}.weight"))? {
            Place::Blocks { at: (part, ix), rows, format, pairs } => {
                let file = &self.gguf[*part as usize];
                let tensor = &file.tensors()[*ix as usize];
                // Matrices and stacks of them alone are in blocks, which was checked.
                let n_cols = *tensor.shape.last()?;
                let row_bytes = n_cols / tensor.stored.block_len() * tensor.stored.block_bytes();
                let bytes = &file.bytes(tensor)[rows.start * row_bytes..rows.end * row_bytes];
                let form = Form::Blocks { stored: tensor.stored, pairs: *pairs, bytes };
                Some(Foreign { format: *format, n_rows: rows.len(), n_cols, form })
            }
            Place::Packed { packer, weight, zeros, scales } => {
                let tensor = |place: (u32, u32)| self.files[place.0 as usize].tensor(place.1 as usize);
                // It was checked when it got its place.
                let view = PackedView::new(*packer, tensor(*weight), zeros.map(tensor), tensor(*scales), None).ok()?;
                let PackedView { n_rows, n_cols, .. } = view;
                Some(Foreign { format: view.format(), n_rows, n_cols, form: Form::Packed(view) })
            }
            _ => None,
        }
    }

    /// Lets go of the memory that a module's matrix in another engine's form takes, for whoever has made all its rows and keeps
    /// them. They can be made again all the same.
    pub fn release(&self, path: &str) {
        match self.table.get(&format!("{path}.weight")) {
            Some(Place::Blocks { at: (part, ix), .. }) => {
                let file = &self.gguf[*part as usize];
                file.release(&file.tensors()[*ix as usize]);
            }
            Some(Place::Packed { weight, zeros, scales, .. }) => {
                let all = [Some(*weight), *zeros, Some(*scales)];
                all.into_iter().flatten().for_each(|(file, ix)| self.files[file as usize].release(ix as usize));
            }
            _ => {}
        }
    }

    /// Takes the tensors of AWQ or GPTQ (`path.qweight` and those that belong to it) together: each such module has one
    /// matrix from then on.
    ///
    /// # Errors
    /// A tensor that is missing or not as the layout says, by name; columns in act-order.
    pub(crate) fn join_packed(&mut self, packer: Packer) -> Result<()> {
        let paths: Vec<String> =
            self.names().filter_map(|name| Some(name.strip_suffix(".qweight")?.to_owned())).collect();
        for path in paths {
            let name = |ending: &str| format!("{path}.{ending}");
            let view = PackedView::new(
                packer,
                self.require(&name("qweight"))?,
                self.get(&name("qzeros")),
                self.require(&name("scales"))?,
                self.get(&name("g_idx")),
            );
            if let Err((ending, what)) = view {
                return Err(Error::tensor(self.place_of(&name(ending)), name(ending), what));
            }
            let mut take = |ending: &str| match self.table.remove(&name(ending)) {
                Some(Place::Safetensors(place)) => Some(place),
                _ => None,
            };
            let (weight, zeros, scales) = (take("qweight"), take("qzeros"), take("scales"));
            take("g_idx");
            let (Some(weight), Some(scales)) = (weight, scales) else { continue };
            if self.table.insert(name("weight"), Place::Packed { packer, weight, zeros, scales }).is_some() {
                let what = "is there beside a matrix of the same module in packed form";
                return Err(Error::tensor(&self.folder, name("weight"), what));
            }
        }
        Ok(())
    }

    /// Fails if the path is not a folder.
    pub(crate) fn check_folder(folder: &Path) -> Result<()> {
        let missing = |what: &str| Err(Error::Missing { path: folder.to_path_buf(), what: what.into() });
        match std::fs::metadata(folder) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => missing(
                "is a file, and no GGUF file; give one, or the folder that holds config.json and model.safetensors",
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing(
                "no such folder; give the folder of a checkpoint (config.json, model.safetensors, tokenizer.json)",
            ),
            Err(error) => Err(Error::io(folder, error)),
        }
    }
    /// The folder or the GGUF file.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
    /// The mapped safetensors files in order of names.
    pub fn files(&self) -> &[Safetensors] {
        &self.files
    }
    /// All mapped files, in the order in which [`Checkpoint::open_files`] takes them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(Safetensors::path).chain(self.gguf.iter().map(Gguf::path))
    }
    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(String::as_str)
    }
    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }
    /// The tensor of that name, unless it is a matrix in another engine's form: see [`Checkpoint::foreign`].
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let (name, place) = self.table.get_key_value(name)?;
        match place {
            Place::Safetensors((file, ix)) => Some(self.files[*file as usize].tensor(*ix as usize)),
            Place::Gguf((part, ix)) => {
                let file = &self.gguf[*part as usize];
                let tensor = &file.tensors()[*ix as usize];
                let stored = tensor.stored.float()?;
                Some(TensorView { name, stored, shape: &tensor.shape, bytes: file.bytes(tensor) })
            }
            Place::Made(MadeTensor { stored, shape, bytes }) => {
                Some(TensorView { name, stored: *stored, shape, bytes })
            }
            Place::Blocks { .. } | Place::Packed { .. } => None,
        }
    }
    /// The sizes of the tensor of that name, slowest first, however it is stored; of AWQ's and GPTQ's those of the matrix.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        if let Some(Place::Blocks { at: (part, ix), rows, .. }) = self.table.get(name) {
            let shape = &self.gguf[*part as usize].tensors()[*ix as usize].shape;
            let (n_cols, above) = shape.split_last()?;
            let is_whole = above.iter().product::<usize>() == rows.len();
            return Some(if is_whole { shape.clone() } else { vec![rows.len(), *n_cols] });
        }
        let packed = || self.foreign(name.strip_suffix(".weight")?).map(|matrix| vec![matrix.n_rows, matrix.n_cols]);
        self.get(name).map(|tensor| tensor.shape.to_vec()).or_else(packed)
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
    /// An error of the model, with the names that its file has for tensors and settings if that is a GGUF file.
    pub(crate) fn in_own_words(&self, error: Error) -> Error {
        match &self.words {
            Some(words) => words.tell(error, &self.folder),
            None => error,
        }
    }
    /// The file that holds a tensor, else the folder; for messages.
    pub(crate) fn place_of(&self, name: &str) -> &Path {
        match self.table.get(name) {
            Some(Place::Safetensors((file, _)) | Place::Packed { weight: (file, _), .. }) => {
                self.files[*file as usize].path()
            }
            Some(Place::Gguf((part, _)) | Place::Blocks { at: (part, _), .. }) => self.gguf[*part as usize].path(),
            _ => &self.folder,
        }
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
