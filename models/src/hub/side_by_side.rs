//! Several connections at one time: threads that fetch, and the caller's own, which hears from them and tells how far they are.
//!
//! Each thread brings file after file. One that finds no further file helps with those that are under way (`pieces.rs`).

use super::client::RemoteFile;
use super::download::Download;
use super::pieces::{FIRST_BYTES, Piece, Rest, Shared, lock};
use super::{FetchProgress, HubError};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections at one time, as many as Hugging Face's own tool has workers.
pub(super) const MAX_CONNECTIONS: usize = 8;
/// How often who waits looks whether to go on waiting.
const LOOK: Duration = Duration::from_millis(100);

/// Fetches files. The first that fails ends the others; what they have received is kept.
pub(super) fn fetch<'f>(
    download: &Download<'_>,
    files: &[&'f RemoteFile],
    sum: &mut Sum<'f, '_>,
) -> Result<(), HubError> {
    let (tell, told) = channel();
    let (team, is_over) = (Team::of(files.len()), AtomicBool::new(false));
    let failed = Mutex::new(None);
    let fail = |error| {
        lock(&failed).get_or_insert(error);
        is_over.store(true, Ordering::Release);
        team.shared.tell();
    };
    let work = |mut line: Line<'f, '_>| {
        let _alarm = Alarm { team: &team, is_over: &is_over };
        while let Some(&file) = files.get(team.next.fetch_add(1, Ordering::Relaxed)) {
            let brought = line.goes_on(&file.name).and_then(|()| download.file(file, &team, &mut line));
            team.n_left.fetch_sub(1, Ordering::Release);
            if let Err(error) = brought {
                return fail(error);
            }
            team.shared.tell();
        }
        while team.n_left.load(Ordering::Acquire) > 0 && !is_over.load(Ordering::Acquire) {
            let n_news = team.shared.n_news();
            match team.deal(line.length) {
                Some((rest, piece)) => download.piece(&rest, piece, &mut line),
                None => team.wait(n_news),
            }
        }
    };
    let work = &work;
    let n_pieces = files.iter().map(|file| file.n_bytes.unwrap_or(0).div_ceil(FIRST_BYTES).max(1)).sum::<u64>();
    std::thread::scope(|scope| {
        for ix in 0..n_pieces.min(MAX_CONNECTIONS as u64) {
            let line = Line { tell: tell.clone(), is_over: &is_over, length: FIRST_BYTES };
            let thread = std::thread::Builder::new().name("fetch".into()).spawn_scoped(scope, move || work(line));
            match thread {
                Ok(_) => {}
                // Those that there are do all of it.
                Err(_) if ix > 0 => break,
                Err(source) => {
                    fail(HubError::NoThread { source });
                    break;
                }
            }
        }
        drop(tell);
        let _alarm = Alarm { team: &team, is_over: &is_over };
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

/// Ends all threads of a fetch if the one that has it panics: the others would wait for what it was to bring.
struct Alarm<'a, 'f> {
    team: &'a Team<'f>,
    is_over: &'a AtomicBool,
}

impl Drop for Alarm<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.is_over.store(true, Ordering::Release);
            self.team.shared.tell();
        }
    }
}

/// The threads of a fetch, and what they have in work.
pub(super) struct Team<'f> {
    shared: Arc<Shared>,
    rests: Mutex<Vec<Arc<Rest<'f>>>>,
    /// The place of the next file that nobody has begun.
    next: AtomicUsize,
    /// Files that are not there yet.
    n_left: AtomicUsize,
}

impl<'f> Team<'f> {
    fn of(n_files: usize) -> Self {
        let rests = Mutex::new(Vec::new());
        Self { shared: Shared::new(), rests, next: AtomicUsize::new(0), n_left: AtomicUsize::new(n_files) }
    }
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
    pub(super) fn wait(&self, n_news: u64) {
        self.shared.wait(n_news, LOOK);
    }

    /// Lets the others help with a file, as long as what is given lives.
    pub(super) fn open(&self, rest: Rest<'f>) -> Opened<'_, 'f> {
        let rest = Arc::new(rest);
        self.rests().push(Arc::clone(&rest));
        Opened { team: self, rest }
    }

    /// A piece of the first file that has one.
    fn deal(&self, length: u64) -> Option<(Arc<Rest<'f>>, Piece)> {
        let rests = self.rests();
        rests.iter().find_map(|rest| rest.deal(length).map(|piece| (Arc::clone(rest), piece)))
    }

    fn rests(&self) -> MutexGuard<'_, Vec<Arc<Rest<'f>>>> {
        lock(&self.rests)
    }
}

/// A file that others may help with.
pub(super) struct Opened<'t, 'f> {
    team: &'t Team<'f>,
    rest: Arc<Rest<'f>>,
}

impl<'f> Deref for Opened<'_, 'f> {
    type Target = Rest<'f>;

    fn deref(&self) -> &Rest<'f> {
        &self.rest
    }
}

impl Drop for Opened<'_, '_> {
    fn drop(&mut self) {
        self.rest.close();
        self.team.rests().retain(|rest| !Arc::ptr_eq(rest, &self.rest));
    }
}

/// How far a file is.
struct Told<'f> {
    file: &'f str,
    done_bytes: u64,
    /// Whether to go on. Who waits for it hears too if it is dropped.
    answer: Sender<bool>,
}

/// From a thread that fetches to the one that tells.
pub(super) struct Line<'f, 's> {
    tell: Sender<Told<'f>>,
    is_over: &'s AtomicBool,
    /// Bytes of this connection's next piece.
    pub(super) length: u64,
}

impl<'f> Line<'f, '_> {
    /// Tells how far a file is; an error if it is to be left.
    pub(super) fn tell(&self, file: &'f str, done_bytes: u64) -> Result<(), HubError> {
        let answer = self.say(file, done_bytes);
        self.hear(file, &answer)
    }

    /// Tells how far a file is, without waiting for the answer, which has to be heard then.
    pub(super) fn say(&self, file: &'f str, done_bytes: u64) -> Receiver<bool> {
        let (answer, heard) = channel();
        // Where nobody listens any more no answer comes, which is heard.
        let _ = self.tell.send(Told { file, done_bytes, answer });
        heard
    }

    /// The answer to what was told; an error if the file is to be left.
    pub(super) fn hear(&self, file: &str, answer: &Receiver<bool>) -> Result<(), HubError> {
        if !answer.recv().unwrap_or(false) {
            return Err(stopped(file));
        }
        self.goes_on(file)
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

    pub(super) fn goes_on(&self, file: &str) -> Result<(), HubError> {
        if self.is_over.load(Ordering::Acquire) { Err(stopped(file)) } else { Ok(()) }
    }
}

pub(super) fn stopped(file: &str) -> HubError {
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
        let total_bytes = files.filter_map(|file| file.n_bytes).fold(0, u64::saturating_add);
        Self { on_progress, done_bytes: BTreeMap::new(), total_bytes }
    }

    fn tell(&mut self, file: &'f str, done_bytes: u64) -> bool {
        self.done_bytes.insert(file, done_bytes);
        let done_bytes = self.done_bytes.values().sum();
        // Where the hub tells no sizes the total grows with what arrives.
        self.total_bytes = self.total_bytes.max(done_bytes);
        (self.on_progress)(FetchProgress { file, done_bytes, total_bytes: self.total_bytes })
    }
}
