//! Everything that can be wrong with a checkpoint folder. Each message names the file and the tensor or field,
//! says what was found, and what would be right.

use std::path::PathBuf;
use thiserror::Error;

/// The result of reading something that others wrote.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a checkpoint, its configuration, its tokenizer or its chat template.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that must exist does not, or is of the wrong kind.
    #[error("{}: {what}", path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What is expected there and where to get it.
        what: String,
    },
    /// Something stands where a new folder or file is to be written.
    #[error("{}: exists already; remove it or name another place", path.display())]
    Exists {
        /// The folder or file.
        path: PathBuf,
    },
    /// Another program is writing the same.
    #[error("{}: another conversion is writing this; wait for it or name another place", path.display())]
    InWork {
        /// What it has locked.
        path: PathBuf,
    },
    /// A conversion that was asked to stop.
    #[error("{}: stopped; nothing was written", path.display())]
    Stopped {
        /// What was to be written.
        path: PathBuf,
    },
    /// The system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file whose structure is broken (header, JSON, sizes).
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is broken, and what to do.
        what: String,
    },
    /// A tensor that is described wrongly, has the wrong type or the wrong shape.
    #[error("{}: tensor `{tensor}`: {what}", path.display())]
    Tensor {
        /// The file or folder that holds it.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What was found and what was expected.
        what: String,
    },
    /// A tensor that the model needs and the checkpoint lacks.
    #[error("{}: tensor `{tensor}` is missing{hint}", path.display())]
    MissingTensor {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// How to go on; begins with a separator.
        hint: String,
    },
    /// A field of a configuration file that is absent, of the wrong type or absurd.
    #[error("{}: `{field}` is {found}; it must be {allowed}", path.display())]
    Field {
        /// The configuration file.
        path: PathBuf,
        /// The field, with its parents.
        field: String,
        /// The value found, or `absent`.
        found: String,
        /// What is allowed.
        allowed: String,
    },
    /// An architecture that no file of `arch/` builds.
    #[error("{}: architecture `{found}` is not known; known are: {known}", path.display())]
    UnknownArchitecture {
        /// The configuration file.
        path: PathBuf,
        /// The model type it names.
        found: String,
        /// The known ones, separated by commas.
        known: String,
    },
    /// Something valid that this version cannot run.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported and what is.
        what: String,
    },
    /// A way to quantize that is none.
    #[error(transparent)]
    Recipe(#[from] crate::convert::RecipeError),
    /// A model of a hub that could not be fetched or found.
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// The op graph breaks a rule of the representation.
    #[error("the model's graph: {0}")]
    Graph(#[from] ingot_ir::IrError),
    /// The tokenizer failed on a text or on ids.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The form that an answer is to have is malformed, too complex, or cannot be kept.
    #[error("{0}")]
    Grammar(String),
    /// The chat template does not parse, raised, or ran out of fuel.
    #[error("chat template: {0}")]
    Template(String),
}

impl Error {
    /// An I/O error of a file; "not found" says so in words.
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn malformed(path: &std::path::Path, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), what: what.into() }
    }

    pub(crate) fn tensor(path: &std::path::Path, tensor: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_path_buf(), tensor: tensor.into(), what: what.into() }
    }
}
