//! A checkpoint's small files (configuration, tokenizer, chat template): in a folder, or held by name.

use crate::error::{Error, Result};
use crate::text::bpe::Vocabulary;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files that [`Files::read_all`] takes along: everything that this crate reads of a checkpoint but its weights.
const NAMES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Larger JSON files are refused, but for the tokenizer.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Where a checkpoint's small files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// A folder, or the file that holds them; for messages.
    place: PathBuf,
    /// `None`: they are read from the folder.
    held: Option<BTreeMap<String, Vec<u8>>>,
    /// What `tokenizer.json` is made of when it is asked for.
    vocabulary: Option<Arc<Vocabulary>>,
}

impl Files {
    /// Those of a folder.
    pub fn folder(folder: &Path) -> Self {
        Self { place: folder.to_path_buf(), held: None, vocabulary: None }
    }
    /// Those of a table; `place` is named in messages.
    pub fn held(place: &Path, files: BTreeMap<String, Vec<u8>>) -> Self {
        Self { place: place.to_path_buf(), held: Some(files), vocabulary: None }
    }
    /// The same with a `tokenizer.json`.
    pub(crate) fn with_vocabulary(self, vocabulary: Vocabulary) -> Self {
        Self { vocabulary: Some(Arc::new(vocabulary)), ..self }
    }
    /// What `tokenizer.json` is made of, if it is not a file.
    pub(crate) fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_deref()
    }
    /// All small files of the model that are there, by name.
    pub fn read_all(&self) -> Result<Vec<(String, Vec<u8>)>> {
        const LIMIT_BYTES: u64 = 1 << 30;
        let mut found = Vec::new();
        for name in NAMES {
            if let Some(bytes) = self.bytes(name, LIMIT_BYTES)? {
                found.push((name.to_owned(), bytes));
            }
        }
        Ok(found)
    }
    /// A JSON file, `null` if there is none.
    pub(crate) fn json_or_null(&self, name: &str) -> Result<Value> {
        Ok(self.json(name)?.unwrap_or(Value::Null))
    }
    /// The folder, if they are in one.
    pub(crate) fn in_folder(&self) -> Option<&Path> {
        self.held.is_none().then_some(&self.place)
    }
    /// The file that holds them, if they are in no folder.
    pub(crate) fn in_file(&self) -> Option<&Path> {
        self.held.is_some().then_some(&self.place)
    }
    /// A file's path, for messages: of a tokenizer that is made of a vocabulary, the file which holds that.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if self.vocabulary.is_some() && name == "tokenizer.json" {
            return self.place.clone();
        }
        self.place.join(name)
    }
    /// A JSON file. A missing file is `None`; files over 64 MiB are refused.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.bytes(name, MAX_JSON_BYTES)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::malformed(&self.path(name), format!("not valid JSON: {error}; fetch the file again"))
        })
    }
    /// A text file of at most `limit_bytes`. A missing file is `None`.
    pub(crate) fn text(&self, name: &str, limit_bytes: u64) -> Result<Option<String>> {
        let Some(bytes) = self.bytes(name, limit_bytes)? else { return Ok(None) };
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|_| Error::malformed(&self.path(name), "not UTF-8 text; fetch the file again"))
    }

    fn bytes(&self, name: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        if let Some(vocabulary) = self.vocabulary().filter(|_| name == "tokenizer.json") {
            return vocabulary.json().map(Some).map_err(|why| Error::malformed(&path, why));
        }
        let n_bytes = match &self.held {
            Some(files) => match files.get(name) {
                Some(bytes) => bytes.len() as u64,
                None => return Ok(None),
            },
            None => match std::fs::metadata(&path) {
                Ok(meta) => meta.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::io(&path, error)),
            },
        };
        if n_bytes > limit_bytes {
            return Err(Error::malformed(&path, format!("{n_bytes} bytes; at most {limit_bytes} are read")));
        }
        match &self.held {
            Some(files) => Ok(files.get(name).cloned()),
            None => std::fs::read(&path).map(Some).map_err(|error| Error::io(&path, error)),
        }
    }
}
