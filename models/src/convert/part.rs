//! What is being written: beside the place that it will take, under the name with `.part`, until it is whole.
//!
//! Whoever writes holds a lock, which the system takes back however the program ends. So a part that nobody locks is what a
//! killed program left, and is replaced.

use crate::error::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The file in an unfinished folder that is locked.
const LOCK: &str = ".ingot-part";

/// An unfinished file or folder. It is removed when it is dropped.
pub(super) struct Part {
    out: PathBuf,
    path: PathBuf,
    /// Of a file the file itself.
    lock: File,
    is_folder: bool,
}

impl Part {
    /// Begins a folder.
    ///
    /// # Errors
    /// [`Error::Exists`] if something has the name already, or another program is writing it.
    pub(super) fn folder(out: &Path) -> Result<Self> {
        let path = part_path(out)?;
        if path.is_dir() && path.join(LOCK).is_file() {
            drop(locked(&path.join(LOCK))?);
            std::fs::remove_dir_all(&path).map_err(|error| Error::io(&path, error))?;
        }
        if path.exists() {
            return Err(Error::Exists { path });
        }
        std::fs::create_dir_all(&path).map_err(|error| Error::io(&path, error))?;
        let lock = locked(&path.join(LOCK))?;
        Ok(Self { out: out.to_path_buf(), path, lock, is_folder: true })
    }

    /// Begins a file. A part of it that nobody writes is written anew.
    ///
    /// # Errors
    /// As [`Part::folder`].
    pub(super) fn file(out: &Path) -> Result<Self> {
        let path = part_path(out)?;
        if path.is_dir() {
            return Err(Error::Exists { path });
        }
        let lock = locked(&path)?;
        // Another program may have finished it while this one waited at the door.
        if out.exists() {
            return Err(Error::Exists { path: out.to_path_buf() });
        }
        lock.set_len(0).map_err(|error| Error::io(&path, error))?;
        Ok(Self { out: out.to_path_buf(), path, lock, is_folder: false })
    }

    /// Where it is written.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to be written from its beginning.
    pub(super) fn open_file(&self) -> &File {
        &self.lock
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left then.
    pub(super) fn finish(self) -> Result<()> {
        let io = |error| Error::io(&self.out, error);
        if self.is_folder {
            std::fs::remove_file(self.path.join(LOCK)).map_err(io)?;
        } else {
            self.lock.sync_all().map_err(io)?;
        }
        // What came into being meanwhile is not written over; between this look and the next line nothing can help it.
        if self.out.exists() {
            return Err(Error::Exists { path: self.out.clone() });
        }
        std::fs::rename(&self.path, &self.out).map_err(io)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After the rename there is nothing left; an error that is told is the one of writing.
        let _ = if self.is_folder { std::fs::remove_dir_all(&self.path) } else { std::fs::remove_file(&self.path) };
    }
}

/// `OUT.part`, if nothing is at `out`.
fn part_path(out: &Path) -> Result<PathBuf> {
    if out.exists() {
        return Err(Error::Exists { path: out.to_path_buf() });
    }
    let name = out.file_name().ok_or_else(|| {
        let what = "is no name for something new".into();
        Error::Missing { path: out.to_path_buf(), what }
    })?;
    let mut name = name.to_owned();
    name.push(".part");
    Ok(out.with_file_name(name))
}

/// Opens or makes a file that nobody else has locked, and locks it.
fn locked(path: &Path) -> Result<File> {
    let io = |error| Error::io(path, error);
    let file = File::options().write(true).create(true).truncate(false).open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::InWork { path: path.to_path_buf() }),
        Err(std::fs::TryLockError::Error(error)) => Err(io(error)),
    }
}
