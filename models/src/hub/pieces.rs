//! A large file over several connections: dealt out in pieces, which come side by side and are written in order.
//!
//! What lies on the disk is what was received without a gap, so that Python's tools, which share the cache, can go on with
//! it, and we with theirs. What is further on waits in memory, within a bound that all files of a fetch share.

use super::HubError;
use super::client::{Answer, Place};
use super::part::Part;
use super::side_by_side::{Line, stopped};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of a connection's first piece, when nobody knows how fast they come.
pub(super) const FIRST_BYTES: u64 = 4 << 20;
/// Bytes of the shortest and the longest piece.
const PIECE_BYTES: (u64, u64) = (1 << 20, 8 << 20);
/// What a connection brings in this time is its next piece: requests are few, and little is lost with what waits in memory.
const AIM: Duration = Duration::from_secs(2);
/// Most bytes that wait in memory for those before them.
const MAX_AHEAD_BYTES: u64 = 64 << 20;

/// The length of a connection's next piece, after one of so many bytes.
pub(super) fn length_after(n_bytes: u64, took: Duration) -> u64 {
    let aimed = n_bytes as f64 * AIM.as_secs_f64() / took.as_secs_f64().max(1e-6);
    (aimed as u64).clamp(PIECE_BYTES.0, PIECE_BYTES.1)
}

/// What the files of a fetch share: room in memory, and news for those who wait.
pub(super) struct Shared {
    state: Mutex<SharedState>,
    changed: Condvar,
}

struct SharedState {
    free_bytes: u64,
    n_news: u64,
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        let state = Mutex::new(SharedState { free_bytes: MAX_AHEAD_BYTES, n_news: 0 });
        Arc::new(Self { state, changed: Condvar::new() })
    }
    /// How much has happened so far.
    pub(super) fn n_news(&self) -> u64 {
        lock(&self.state).n_news
    }
    /// Waits until more has happened, or for a while.
    pub(super) fn wait(&self, n_news: u64, most: Duration) {
        let wait = self.changed.wait_timeout_while(lock(&self.state), most, |state| state.n_news == n_news);
        drop(wait);
    }
    pub(super) fn tell(&self) {
        lock(&self.state).n_news += 1;
        self.changed.notify_all();
    }
}

/// Room in memory for a piece that is ahead of others.
struct Room {
    shared: Arc<Shared>,
    n_bytes: u64,
}

impl Room {
    fn take(shared: &Arc<Shared>, n_bytes: u64) -> Option<Self> {
        let mut state = lock(&shared.state);
        state.free_bytes = state.free_bytes.checked_sub(n_bytes)?;
        drop(state);
        Some(Self { shared: Arc::clone(shared), n_bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        lock(&self.shared.state).free_bytes += self.n_bytes;
        self.shared.tell();
    }
}

/// A piece of a file, which one connection receives.
pub(super) struct Piece {
    /// Its first byte, which names it.
    from: u64,
    /// The next byte to come.
    pub(super) at: u64,
    /// The byte after its last; `None` if it goes to the file's end.
    pub(super) until: Option<u64>,
}

/// A piece that was dealt out and is not written as a whole.
struct Dealt {
    from: u64,
    /// What has come of it; of the first piece nothing, since that is written at once.
    bytes: Vec<u8>,
    /// None for the first piece.
    room: Option<Room>,
    is_whole: bool,
}

/// What is missing of a file.
pub(super) struct Rest<'f> {
    name: &'f str,
    shared: Arc<Shared>,
    /// Whether several connections may take part.
    is_shared: bool,
    state: Mutex<State<'f>>,
}

struct State<'f> {
    part: Part<'f>,
    place: Arc<Place>,
    /// The ETag of the answers from that place, if they have one.
    mark: Option<String>,
    /// In the order of the file; the first begins where the part ends, but for what it has written itself.
    dealt: VecDeque<Dealt>,
    /// The first byte that was not dealt out; `None` if all were.
    next: Option<u64>,
    /// Whether the server keeps to ranges. Until that is known one piece is dealt out.
    has_ranges: bool,
    failed: Option<HubError>,
    /// Nothing is written any more.
    is_over: bool,
}

impl State<'_> {
    fn arrived(&self) -> u64 {
        self.part.done + self.dealt.iter().map(|dealt| dealt.bytes.len() as u64).sum::<u64>()
    }

    /// Writes what has no gap before it.
    fn write_whole(&mut self) -> Result<(), HubError> {
        while self.dealt.front().is_some_and(|first| first.is_whole) {
            self.dealt.pop_front();
            if let Some(first) = self.dealt.front_mut() {
                self.part.write(&std::mem::take(&mut first.bytes))?;
                first.room = None;
            }
        }
        Ok(())
    }
}

impl<'f> Rest<'f> {
    pub(super) fn new(name: &'f str, part: Part<'f>, place: Place, shared: &Arc<Shared>, is_shared: bool) -> Self {
        let next = (part.n_bytes != Some(part.done)).then_some(part.done);
        let (place, dealt) = (Arc::new(place), VecDeque::new());
        let state = State { part, place, mark: None, dealt, next, has_ranges: false, failed: None, is_over: false };
        Self { name, shared: Arc::clone(shared), is_shared, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State<'f>> {
        lock(&self.state)
    }
    pub(super) fn name(&self) -> &'f str {
        self.name
    }
    pub(super) fn place(&self) -> Arc<Place> {
        Arc::clone(&self.lock().place)
    }

    /// The next piece, of about `length` bytes; `None` if there is none now, or not for a further connection.
    pub(super) fn deal(&self, length: u64) -> Option<Piece> {
        let mut state = self.lock();
        let from = state.next.filter(|_| !state.is_over)?;
        let is_first = state.dealt.is_empty();
        if !is_first && !state.has_ranges {
            return None;
        }
        // Less than the shortest piece is not left for another one.
        let until = state.part.n_bytes.filter(|end| self.is_shared && end - from >= length + PIECE_BYTES.0);
        let until = until.map(|_| from + length);
        let room = match (is_first, until.or(state.part.n_bytes)) {
            (false, Some(end)) => Some(Room::take(&self.shared, end - from)?),
            _ => None,
        };
        state.dealt.push_back(Dealt { from, bytes: Vec::new(), room, is_whole: false });
        state.next = until;
        Some(Piece { from, at: from, until })
    }

    /// Looks at how an answer from a place begins. A file that a server sends from its first byte whatever it is asked for comes over
    /// this connection alone.
    pub(super) fn accept(&self, piece: &mut Piece, place: &Place, answer: &Answer) -> Result<(), HubError> {
        let mut state = self.lock();
        self.goes_on(&state)?;
        // An answer from an address that is no longer the file's may have another mark.
        let mark = answer.etag.as_ref().filter(|_| place.url == state.place.url).cloned();
        let has_changed = state.mark.is_some() && mark.is_some() && state.mark != mark;
        let is_other_size =
            answer.n_bytes.is_some() && state.part.n_bytes.is_some() && answer.n_bytes != state.part.n_bytes;
        if has_changed || is_other_size {
            // Nothing tells which bytes belong to which, unless the content's hash does in the end.
            if !state.part.is_checked() {
                state.part.restart()?;
            }
            return Err(self.changed(&mut state));
        }
        state.mark = state.mark.take().or(mark);
        match answer.first {
            Some(first) if first == piece.at && answer.is_range => {
                state.has_ranges = true;
                drop(state);
                self.shared.tell();
                Ok(())
            }
            // Others have come from this server in ranges, so this one can be read up to its end.
            Some(0) if piece.at == 0 && state.has_ranges => Ok(()),
            Some(0) if state.has_ranges && !answer.is_range => Err(self.changed(&mut state)),
            Some(0) if !state.has_ranges => self.take_all(&mut state, piece),
            _ => {
                let what = format!("the answer does not begin at byte {}", piece.at);
                Err(HubError::BadAnswer { url: state.place.url.clone(), what })
            }
        }
    }

    /// The server knows no such byte: the file is shorter than what is there, or empty. A first piece becomes all of it.
    pub(super) fn restart(&self, piece: &mut Piece) -> Result<(), HubError> {
        let mut state = self.lock();
        self.goes_on(&state)?;
        if state.has_ranges { Err(self.changed(&mut state)) } else { self.take_all(&mut state, piece) }
    }

    fn take_all(&self, state: &mut State<'f>, piece: &mut Piece) -> Result<(), HubError> {
        state.part.restart()?;
        state.next = None;
        state.dealt = VecDeque::from([Dealt { from: 0, bytes: Vec::new(), room: None, is_whole: false }]);
        *piece = Piece { from: 0, at: 0, until: None };
        Ok(())
    }

    /// Takes a piece's next bytes, up to its end. Gives whether more may come.
    pub(super) fn push(&self, piece: &mut Piece, bytes: &[u8], line: &Line<'f, '_>) -> Result<bool, HubError> {
        let mut state = self.lock();
        self.goes_on(&state)?;
        let left = piece.until.or(state.part.n_bytes).map_or(u64::MAX, |end| end - piece.at);
        let n = (bytes.len() as u64).min(left);
        if piece.until.is_none() && n < bytes.len() as u64 {
            return Err(state.part.cut("the answer was longer"));
        }
        let bytes = &bytes[..n as usize];
        match state.dealt.iter().position(|dealt| dealt.from == piece.from) {
            Some(0) => state.part.write(bytes)?,
            Some(ix) => {
                let dealt = &mut state.dealt[ix];
                let room = dealt.room.as_ref().map_or(0, |room| room.n_bytes);
                dealt.bytes.reserve_exact((room as usize).saturating_sub(dealt.bytes.len()));
                dealt.bytes.extend_from_slice(bytes);
            }
            None => return Err(stopped(self.name)),
        }
        piece.at += n;
        // What is told grows, since it is told in this order.
        let answer = line.say(self.name, state.arrived());
        drop(state);
        line.hear(self.name, &answer)?;
        Ok(piece.until.is_none() || n < left)
    }

    /// Tells how far the file is, and hears whether to go on.
    pub(super) fn tell(&self, line: &Line<'f, '_>) -> Result<(), HubError> {
        let state = self.lock();
        let answer = line.say(self.name, state.arrived());
        drop(state);
        line.hear(self.name, &answer)
    }

    /// No more bytes come of a piece.
    pub(super) fn end(&self, piece: &Piece) -> Result<(), HubError> {
        let mut state = self.lock();
        self.goes_on(&state)?;
        if piece.until.or(state.part.n_bytes).is_some_and(|end| piece.at != end) {
            return Err(state.part.cut("the answer was shorter"));
        }
        if let Some(dealt) = state.dealt.iter_mut().find(|dealt| dealt.from == piece.from) {
            dealt.is_whole = true;
        }
        state.write_whole()?;
        drop(state);
        self.shared.tell();
        Ok(())
    }

    pub(super) fn cut(&self, why: &str) -> HubError {
        self.lock().part.cut(why)
    }

    /// The file's place was asked for again.
    pub(super) fn renew(&self, place: Place) -> Result<(), HubError> {
        let mut state = self.lock();
        if place.etag != state.place.etag {
            return Err(self.changed(&mut state));
        }
        if place.url != state.place.url {
            state.mark = None;
        }
        state.place = Arc::new(place);
        Ok(())
    }

    /// A piece could not be received: so nor can the file.
    pub(super) fn fail(&self, error: HubError) {
        let mut state = self.lock();
        state.is_over = true;
        state.failed.get_or_insert(error);
        drop(state);
        self.shared.tell();
    }

    /// Lets nobody write any more.
    pub(super) fn close(&self) {
        self.lock().is_over = true;
    }

    /// How it ended, once it has.
    pub(super) fn outcome(&self) -> Option<Result<(), HubError>> {
        let mut state = self.lock();
        match state.failed.take() {
            Some(error) => Some(Err(error)),
            None => (state.next.is_none() && state.dealt.is_empty()).then_some(Ok(())),
        }
    }

    /// All has been written: the part becomes the content if it is what its name says.
    pub(super) fn finish(&self, blob: &Path) -> Result<(), HubError> {
        let mut state = self.lock();
        let place = Arc::clone(&state.place);
        state.part.finish(blob, &place.etag)
    }

    fn goes_on(&self, state: &State<'f>) -> Result<(), HubError> {
        if state.is_over { Err(stopped(self.name)) } else { Ok(()) }
    }
    /// The pieces do not fit together. Who owns the file is told so, who receives pieces to stop.
    fn changed(&self, state: &mut State<'f>) -> HubError {
        state.is_over = true;
        state.failed.get_or_insert_with(|| HubError::Changed { file: self.name.to_owned() });
        stopped(self.name)
    }
}

/// What a mutex holds, also where a thread that held it has panicked.
pub(super) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::HubSettings;
    use super::super::client::Client;
    use super::*;

    fn answer(first: u64) -> Answer {
        Answer { is_range: true, first: Some(first), n_bytes: None, etag: None }
    }

    fn place(n_bytes: Option<u64>, url: &str) -> Place {
        Place { etag: "x".into(), n_bytes, url: url.into() }
    }

    fn part(folder: &Path, name: &'static str, n_bytes: Option<u64>) -> Part<'static> {
        let cache = folder.to_string_lossy().into_owned();
        let settings = HubSettings::from_variables(&|name| (name == "HF_HUB_CACHE").then(|| cache.clone()));
        let settings = settings.expect("there is a cache");
        Part::open(&folder.join(name), name, n_bytes, "x", &Client::new(&settings)).expect("there is room")
    }

    #[test]
    fn one_piece_until_ranges_are_known_then_as_many_as_there_is_room_for() {
        let folder = tempfile::tempdir().expect("there is room");
        let shared = Shared::new();
        let rest = |name: &'static str, n_bytes, is_shared| {
            let part = part(folder.path(), name, n_bytes);
            Rest::new(name, part, place(n_bytes, "http://127.0.0.1/x"), &shared, is_shared)
        };
        let (first, second) = (rest("first", Some(1 << 30), true), rest("second", Some(1 << 30), true));
        let mut piece = first.deal(8 << 20).expect("the first");
        assert!((piece.at, piece.until) == (0, Some(8 << 20)) && first.deal(8 << 20).is_none());
        first.accept(&mut piece, &first.place(), &answer(0)).expect("it is what was asked for");
        // 64 MiB wait for the first piece, of all files together.
        let ahead: Vec<_> = std::iter::from_fn(|| first.deal(8 << 20)).collect();
        assert_eq!(
            ahead.iter().map(|piece| piece.at).collect::<Vec<_>>(),
            Vec::from_iter((1..9).map(|ix| ix * (8 << 20)))
        );
        let mut piece = second.deal(8 << 20).expect("a first piece is written at once");
        second.accept(&mut piece, &second.place(), &answer(0)).expect("it is what was asked for");
        assert!(second.deal(1 << 20).is_none());
        drop(first);
        assert!(second.deal(1 << 20).is_some(), "there is room again");
        // A short file, one of unknown size and one that is not shared are one piece.
        for (n_bytes, is_shared) in [(Some(5 << 20), true), (None, true), (Some(1 << 30), false)] {
            let whole = rest("whole", n_bytes, is_shared);
            assert_eq!(whole.deal(FIRST_BYTES + 1).expect("the first").until, None);
            assert!(whole.deal(FIRST_BYTES).is_none());
        }
    }

    #[test]
    fn answers_are_compared_with_those_from_the_same_address() {
        let (folder, n_bytes) = (tempfile::tempdir().expect("there is room"), Some(1 << 30));
        let part = part(folder.path(), "moved", n_bytes);
        let rest = Rest::new("moved", part, place(n_bytes, "http://127.0.0.1/old"), &Shared::new(), true);
        let take = |from: &Place, mark: &str| {
            let mut piece = rest.deal(1 << 20).expect("there is more");
            let answer = Answer { etag: Some(mark.into()), ..answer(piece.at) };
            rest.accept(&mut piece, from, &answer)
        };
        let old = rest.place();
        take(&old, "a").expect("it is the first");
        rest.renew(place(n_bytes, "http://127.0.0.1/new")).expect("it is the same content");
        take(&old, "a").expect("it was asked for before");
        take(&rest.place(), "b").expect("it is the first from there");
        take(&old, "a").expect("it was asked for before");
        assert!(take(&rest.place(), "c").is_err());
        assert!(matches!(rest.outcome(), Some(Err(HubError::Changed { .. }))));
    }

    #[test]
    fn the_faster_bytes_come_the_longer_is_the_next_piece() {
        assert_eq!(length_after(4 << 20, Duration::from_millis(10)), 8 << 20);
        assert_eq!(length_after(4 << 20, Duration::from_secs(4)), 2 << 20);
        assert_eq!(length_after(4 << 20, Duration::from_secs(400)), 1 << 20);
    }
}
