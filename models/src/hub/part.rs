//! A file of the cache that is not whole yet.

use super::HubError;
use super::client::Client;
use ring::digest::{Context, SHA256};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// `blobs/ETAG.incomplete`: what has arrived of a content, from its first byte on and without a gap.
pub(super) struct Part<'f> {
    path: PathBuf,
    file: File,
    name: &'f str,
    /// Bytes that are there.
    pub(super) done: u64,
    pub(super) n_bytes: Option<u64>,
    /// Of the bytes that are there; `None` if the content's name does not tell its hash.
    hash: Option<Context>,
    /// The cache's folder.
    cache: PathBuf,
}

impl<'f> Part<'f> {
    /// What an earlier fetch has left, or an empty file. `etag` is the content's name.
    pub(super) fn open(
        blob: &Path,
        name: &'f str,
        n_bytes: Option<u64>,
        etag: &str,
        client: &Client<'_>,
    ) -> Result<Self, HubError> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| HubError::io(&path, error))?;
        let hash = is_sha256(etag).then(|| Context::new(&SHA256));
        let mut part = Self { path, file, name, done: 0, n_bytes, hash, cache: client.settings.cache.clone() };
        let found = part.file.seek(SeekFrom::End(0)).map_err(|error| HubError::io(&part.path, error))?;
        match n_bytes {
            Some(n_bytes) if found <= n_bytes => part.take(found)?,
            // Nothing tells whether it belongs to the file.
            _ => part.restart()?,
        }
        Ok(part)
    }

    /// Takes bytes that are there, into the hash too.
    fn take(&mut self, found: u64) -> Result<(), HubError> {
        if let (Some(hash), true) = (&mut self.hash, found > 0) {
            let io = |error| HubError::io(&self.path, error);
            self.file.seek(SeekFrom::Start(0)).map_err(io)?;
            let mut chunk = vec![0; CHUNK_BYTES];
            let mut rest = found;
            while rest > 0 {
                let n = (CHUNK_BYTES as u64).min(rest) as usize;
                self.file.read_exact(&mut chunk[..n]).map_err(io)?;
                hash.update(&chunk[..n]);
                rest -= n as u64;
            }
        }
        self.done = found;
        Ok(())
    }

    pub(super) fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        // What is no ordinary file cannot be emptied, and need not be.
        if let Err(error) = emptied
            && self.done > 0
        {
            return Err(HubError::io(&self.path, error));
        }
        self.hash = self.hash.take().map(|_| Context::new(&SHA256));
        self.done = 0;
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|error| self.no_room(error))?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// The part becomes the content if it is what its name says.
    pub(super) fn finish(&mut self, blob: &Path, etag: &str) -> Result<(), HubError> {
        if let Some(hash) = self.hash.take() {
            let found: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            if found != etag {
                std::fs::remove_file(&self.path).map_err(|error| HubError::io(&self.path, error))?;
                return Err(HubError::Damaged { file: self.name.to_owned() });
            }
        }
        std::fs::rename(&self.path, blob).map_err(|error| HubError::io(blob, error))
    }

    /// Whether [`Part::finish`] finds out if bytes are not those of the content.
    pub(super) fn is_checked(&self) -> bool {
        self.hash.is_some()
    }

    pub(super) fn cut(&self, why: &str) -> HubError {
        let total = self.n_bytes.unwrap_or(self.done);
        HubError::Cut { file: self.name.to_owned(), done: self.done, total, why: why.to_owned() }
    }

    fn no_room(&self, error: std::io::Error) -> HubError {
        if !matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            return HubError::io(&self.path, error);
        }
        let needed = self.n_bytes.unwrap_or(0).saturating_sub(self.done);
        HubError::DiskFull { cache: self.cache.clone(), file: self.name.to_owned(), needed }
    }
}

/// Large files are named by the SHA-256 of their content, small ones by git's hash.
fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
