//! A file from the hub into the cache.

use super::cached::{self, Snapshot};
use super::client::{Client, Place, RemoteFile, text};
use super::side_by_side::Line;
use super::{HubError, ModelId};
use ring::digest::{Context, SHA256};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{StatusCode, header};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// How often another process's lock is looked at.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// What the files of one fetch have in common.
#[derive(Clone, Copy)]
pub(super) struct Download<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) id: &'a ModelId,
    pub(super) snapshot: &'a Snapshot,
}

impl Download<'_> {
    /// Brings a file into the snapshot. What fails in passing is tried again, from where it ended.
    pub(super) fn file<'f>(&self, file: &'f RemoteFile, line: &Line<'f, '_>) -> Result<(), HubError> {
        let (mut n_tries, mut furthest) = (0, 0);
        loop {
            let error = match self.attempt(file, line) {
                Ok(n_bytes) => return line.tell(&file.name, n_bytes),
                Err(error) => error,
            };
            // Who comes further each time is not stuck.
            if let HubError::Cut { done, .. } = error
                && done > furthest
            {
                (n_tries, furthest) = (0, done);
            }
            let Some(wait) = self.client.wait_after(&error, n_tries) else { return Err(error) };
            line.wait(&file.name, wait)?;
            n_tries += 1;
        }
    }

    /// Gives the file's size.
    fn attempt<'f>(&self, file: &'f RemoteFile, line: &Line<'f, '_>) -> Result<u64, HubError> {
        let place = self.client.place(self.id, self.snapshot.commit(), &file.name)?;
        let blob = self.snapshot.blob(&place.etag);
        let _lock = self.lock(&place.etag, &file.name, line)?;
        if !blob.is_file() {
            self.blob(file, &place, &blob, line)?;
        }
        self.snapshot.link(&blob, &file.name)?;
        Ok(std::fs::metadata(&blob).map_or(0, |meta| meta.len()))
    }

    /// One process at a time fetches a content, and one thread; Python's tools take the same lock.
    fn lock<'f>(&self, etag: &str, name: &'f str, line: &Line<'f, '_>) -> Result<File, HubError> {
        let path = self.snapshot.lock(etag);
        cached::create_parent(&path)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| HubError::io(&path, error))?;
        loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => line.tell(name, 0)?,
                // A file system without locks has no second process to fear, as far as can be told.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
            }
            std::thread::sleep(LOCK_WAIT);
        }
    }

    fn blob<'f>(&self, file: &'f RemoteFile, place: &Place, blob: &Path, line: &Line<'f, '_>) -> Result<(), HubError> {
        cached::create_parent(blob)?;
        let n_bytes = place.n_bytes.or(file.n_bytes);
        let mut part = Part::open(blob, &file.name, n_bytes, is_sha256(&place.etag), self.client)?;
        if n_bytes != Some(part.done) {
            self.receive(place, &mut part, line)?;
        }
        part.finish(blob, &place.etag)
    }

    /// The rest of a file.
    fn receive<'f>(&self, place: &Place, part: &mut Part<'f>, line: &Line<'f, '_>) -> Result<(), HubError> {
        let mut response = self.client.get(self.id, &place.url, Some(part.done))?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // The file is shorter than the part, or empty.
            part.restart()?;
            response = self.client.get(self.id, &place.url, None)?;
        }
        // A server may send all of the file, whatever it was asked for.
        let first = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                text(response.headers(), header::CONTENT_RANGE.as_str()).and_then(first_byte)
            }
            _ => Some(0),
        };
        match first {
            Some(first) if first == part.done => {}
            Some(0) => part.restart()?,
            _ => {
                let what = format!("the answer does not begin at byte {}", part.done);
                return Err(HubError::BadAnswer { url: place.url.clone(), what });
            }
        }
        let mut body = response.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            line.tell(part.name, part.done)?;
            match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) if part.n_bytes.is_some_and(|all| part.done + n as u64 > all) => {
                    return Err(part.cut("the answer was longer"));
                }
                Ok(n) => part.write(&chunk[..n])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(part.cut(&error.to_string())),
            }
        }
        match part.n_bytes {
            Some(n_bytes) if part.done != n_bytes => Err(part.cut("the answer was shorter")),
            _ => Ok(()),
        }
    }
}

/// A file that is not whole yet.
struct Part<'f> {
    path: PathBuf,
    file: File,
    name: &'f str,
    /// Bytes that are there.
    done: u64,
    n_bytes: Option<u64>,
    /// Of the bytes that are there; `None` if the content's name does not tell its hash.
    hash: Option<Context>,
    /// The cache's folder.
    cache: PathBuf,
}

impl<'f> Part<'f> {
    /// What an earlier fetch has left, or an empty file.
    fn open(
        blob: &Path,
        name: &'f str,
        n_bytes: Option<u64>,
        hashes: bool,
        client: &Client<'_>,
    ) -> Result<Self, HubError> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| HubError::io(&path, error))?;
        let hash = hashes.then(|| Context::new(&SHA256));
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

    fn restart(&mut self) -> Result<(), HubError> {
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

    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|error| self.no_room(error))?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// The part becomes the content if it is what its name says.
    fn finish(self, blob: &Path, etag: &str) -> Result<(), HubError> {
        if let Some(hash) = self.hash {
            let found: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            if found != etag {
                std::fs::remove_file(&self.path).map_err(|error| HubError::io(&self.path, error))?;
                return Err(HubError::Damaged { file: self.name.to_owned() });
            }
        }
        std::fs::rename(&self.path, blob).map_err(|error| HubError::io(blob, error))
    }

    fn cut(&self, why: &str) -> HubError {
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

/// The first byte of `bytes 100-199/200`.
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
