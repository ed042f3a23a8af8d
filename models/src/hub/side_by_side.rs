//! Several files at one time: threads that fetch, and the caller's own, which hears from them and tells how far they are.
//!
//! A file is never cut into ranges that come side by side: the part that is there is what was received without a gap, so that
//! Python's tools, which share the cache, can go on with it, and we with theirs.

use super::client::RemoteFile;
use super::download::Download;
use super::{FetchProgress, HubError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Files that are fetched at one time, each over a connection of its own.
const MAX_CONNECTIONS: usize = 4;
/// How often who waits looks whether to go on waiting.
const LOOK: Duration = Duration::from_millis(100);

/// Fetches files. The first that fails ends the others; what they have received is kept.
pub(super) fn fetch<'f>(
    download: &Download<'_>,
    files: &[&'f RemoteFile],
    sum: &mut Sum<'f, '_>,
) -> Result<(), HubError> {
    let (tell, told) = channel();
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed = Mutex::new(None);
    let fail = |error| {
        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(error);
        is_over.store(true, Ordering::Release);
    };
    let work = |line: Line<'f, '_>| {
        while let Some(&file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = line.goes_on(&file.name).and_then(|()| download.file(file, &line)) {
                return fail(error);
            }
        }
    };
    let work = &work;
    std::thread::scope(|scope| {
        for _ in 0..files.len().min(MAX_CONNECTIONS) {
            let (answer, answers) = channel();
            let line = Line { tell: tell.clone(), answer, answers, is_over: &is_over };
            let thread = std::thread::Builder::new().name("fetch".into()).spawn_scoped(scope, move || work(line));
            if let Err(error) = thread {
                fail(HubError::io(&download.client.settings.cache, error));
            }
        }
        drop(tell);
        for Told { file, done_bytes, answer } in told {
            // Who has asked is waiting.
            let _ = answer.send(sum.tell(file, done_bytes));
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// How far a file is.
struct Told<'f> {
    file: &'f str,
    done_bytes: u64,
    /// Hears whether to go on.
    answer: Sender<bool>,
}

/// From a thread that fetches to the one that tells.
pub(super) struct Line<'f, 's> {
    tell: Sender<Told<'f>>,
    answer: Sender<bool>,
    answers: Receiver<bool>,
    is_over: &'s AtomicBool,
}

impl<'f> Line<'f, '_> {
    /// Tells how far a file is; an error if it is to be left.
    pub(super) fn tell(&self, file: &'f str, done_bytes: u64) -> Result<(), HubError> {
        self.goes_on(file)?;
        let told = Told { file, done_bytes, answer: self.answer.clone() };
        let heard = self.tell.send(told).is_ok() && self.answers.recv().unwrap_or(false);
        if heard { Ok(()) } else { Err(stopped(file)) }
    }

    /// Waits before a file is tried again.
    pub(super) fn wait(&self, file: &str, wait: Duration) -> Result<(), HubError> {
        let end = Instant::now() + wait;
        loop {
            self.goes_on(file)?;
            match end.checked_duration_since(Instant::now()) {
                Some(rest) if !rest.is_zero() => std::thread::sleep(rest.min(LOOK)),
                _ => return Ok(()),
            }
        }
    }

    fn goes_on(&self, file: &str) -> Result<(), HubError> {
        if self.is_over.load(Ordering::Acquire) { Err(stopped(file)) } else { Ok(()) }
    }
}

fn stopped(file: &str) -> HubError {
    HubError::Stopped { file: file.to_owned() }
}

/// How far all files of a fetch are together.
pub(super) struct Sum<'f, 'p> {
    on_progress: &'p mut dyn FnMut(FetchProgress<'_>) -> bool,
    done_bytes: BTreeMap<&'f str, u64>,
    total_bytes: u64,
}

impl<'f, 'p> Sum<'f, 'p> {
    pub(super) fn new(
        files: impl Iterator<Item = &'f RemoteFile>,
        on_progress: &'p mut dyn FnMut(FetchProgress<'_>) -> bool,
    ) -> Self {
        Self { on_progress, done_bytes: BTreeMap::new(), total_bytes: files.filter_map(|file| file.n_bytes).sum() }
    }

    fn tell(&mut self, file: &'f str, done_bytes: u64) -> bool {
        self.done_bytes.insert(file, done_bytes);
        let done_bytes = self.done_bytes.values().sum();
        // Where the hub tells no sizes the total grows with what arrives.
        self.total_bytes = self.total_bytes.max(done_bytes);
        (self.on_progress)(FetchProgress { file, done_bytes, total_bytes: self.total_bytes })
    }
}
