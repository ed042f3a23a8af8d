//! A file from the hub into the cache.

use super::cached::{self, Snapshot};
use super::client::{Answer, Client, Place, RemoteFile};
use super::part::{CHUNK_BYTES, Part};
use super::pieces::{self, Piece, Rest};
use super::side_by_side::{Line, Team};
use super::{HubError, ModelId};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};
use ureq::http::StatusCode;

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
    /// Brings a file into the snapshot. Others of the team may help.
    pub(super) fn file<'f>(
        &self,
        file: &'f RemoteFile,
        team: &Team<'f>,
        line: &mut Line<'f, '_>,
    ) -> Result<(), HubError> {
        let (mut patience, mut is_shared) = (self.client.patience(), true);
        loop {
            let error = match self.attempt(file, is_shared, team, line) {
                Ok(n_bytes) => return line.tell(&file.name, n_bytes),
                // What is not what it should be is fetched anew, what did not fit together over one connection.
                Err(error @ (HubError::Damaged { .. } | HubError::Changed { .. })) => error,
                Err(error) => return Err(error),
            };
            is_shared &= !matches!(error, HubError::Changed { .. });
            line.wait(&file.name, patience.after(error)?)?;
        }
    }

    /// Gives the file's size.
    fn attempt<'f>(
        &self,
        file: &'f RemoteFile,
        is_shared: bool,
        team: &Team<'f>,
        line: &mut Line<'f, '_>,
    ) -> Result<u64, HubError> {
        let mut patience = self.client.patience();
        let place = loop {
            match self.place(&file.name) {
                Ok(place) => break place,
                Err(error) => line.wait(&file.name, patience.after(error)?)?,
            }
        };
        let blob = self.snapshot.blob(&place.etag);
        let _lock = self.lock(&place.etag, &file.name, line)?;
        if !blob.is_file() {
            cached::create_parent(&blob)?;
            let n_bytes = place.n_bytes.or(file.n_bytes);
            let part = Part::open(&blob, &file.name, n_bytes, &place.etag, self.client)?;
            let rest = Rest::new(&file.name, part, place, team.shared(), is_shared);
            let rest = team.open(rest);
            self.receive_all(&rest, team, line)?;
            rest.finish(&blob)?;
        }
        self.snapshot.link(&blob, &file.name)?;
        Ok(std::fs::metadata(&blob).map_or(0, |meta| meta.len()))
    }

    fn place(&self, name: &str) -> Result<Place, HubError> {
        self.client.place(self.id, self.snapshot.commit(), name)
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

    /// Receives pieces until all have come, also those that others receive.
    fn receive_all<'f>(&self, rest: &Rest<'f>, team: &Team<'f>, line: &mut Line<'f, '_>) -> Result<(), HubError> {
        loop {
            let n_news = team.shared().n_news();
            if let Some(piece) = rest.deal(line.length) {
                self.piece(rest, piece, line);
            } else if let Some(outcome) = rest.outcome() {
                return outcome;
            } else {
                line.goes_on(rest.name())?;
                team.wait(n_news);
            }
        }
    }

    /// Receives one piece of a file, whose owner hears if that fails.
    pub(super) fn piece<'f>(&self, rest: &Rest<'f>, mut piece: Piece, line: &mut Line<'f, '_>) {
        let (from, begun) = (piece.at, Instant::now());
        match self.patiently(rest, &mut piece, line) {
            Ok(()) => line.length = pieces::length_after(piece.at.saturating_sub(from), begun.elapsed()),
            Err(error) => rest.fail(error),
        }
    }

    /// What fails in passing is tried again, from where it ended.
    fn patiently<'f>(&self, rest: &Rest<'f>, piece: &mut Piece, line: &Line<'f, '_>) -> Result<(), HubError> {
        let (mut patience, mut furthest, mut asks_again) = (self.client.patience(), piece.at, false);
        loop {
            let place = if asks_again { self.place(rest.name()).and_then(|place| rest.renew(place)) } else { Ok(()) };
            let Err(error) = place.and_then(|()| self.receive(rest, piece, line)) else { return Ok(()) };
            // The address may have been good for some time only.
            let has_ended = matches!(error, HubError::Forbidden { .. }) && !asks_again;
            asks_again = true;
            if has_ended {
                continue;
            }
            // Who comes further each time is not stuck.
            if piece.at > furthest {
                furthest = piece.at;
                patience.renew();
            }
            line.wait(rest.name(), patience.after(error)?)?;
        }
    }

    fn receive<'f>(&self, rest: &Rest<'f>, piece: &mut Piece, line: &Line<'f, '_>) -> Result<(), HubError> {
        let place = rest.place();
        let mut response = self.client.get(self.id, &place.url, Some((piece.at, piece.until)))?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            rest.restart(piece)?;
            response = self.client.get(self.id, &place.url, None)?;
        }
        rest.accept(piece, &place, &Answer::of(&response))?;
        // Where nothing comes for long somebody may want to stop.
        rest.tell(line)?;
        let mut body = response.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut read = |chunk: &mut [u8]| loop {
            match body.read(chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        };
        loop {
            match read(&mut chunk).map_err(|error| rest.cut(&error.to_string()))? {
                0 => break,
                n => {
                    if !rest.push(piece, &chunk[..n], line)? {
                        // A connection whose answer has been read to its end serves again.
                        let _ = read(&mut chunk[..1]);
                        break;
                    }
                }
            }
        }
        rest.end(piece)
    }
}
