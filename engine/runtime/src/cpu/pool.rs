//! Fork-join over a fixed set of threads.
//!
//! A decode step is some 200 short parallel regions one after the other, so entering and leaving a region must cost
//! about a microsecond: workers spin between regions and sleep only when none comes for a while. A region ends when
//! its chunks are done, not when every worker has answered: a worker that the system has put aside holds up nobody.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Spins before a waiter starts to yield: some 20 µs.
const N_SPINS: u32 = 1_000;
/// How long a worker yields before it sleeps.
const YIELD_FOR: Duration = Duration::from_micros(50);

type Payload = Box<dyn Any + Send>;

/// The region in progress. Only the thread that owns `busy` writes it, and only while `remaining` is 0.
struct Job {
    /// The borrowed closure, its type erased.
    body: *const (),
    call: unsafe fn(*const (), usize, usize),
    n_chunks: usize,
}

struct Shared {
    job: UnsafeCell<Job>,
    /// Chunks of the current region that nobody has claimed. A claim is a successful exchange from r to r - 1.
    remaining: AtomicUsize,
    done: AtomicUsize,
    /// A region is in progress; a second caller, or a nested call, runs its chunks by itself.
    busy: AtomicBool,
    stop: AtomicBool,
    n_asleep: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    panic: Mutex<Option<Payload>>,
}

// SAFETY: `job` is the only field that is not Sync by itself. It is written while `remaining` is 0 by the one thread
// that holds `busy`, and read only after a successful claim; the region of a claim cannot end, nor `job` be
// rewritten, before that claim's chunk is counted in `done`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is used only during the region that it was written for.
unsafe impl Send for Shared {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No user code runs under these locks, so a poisoned one still guards a sound value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Claims and runs chunks until none is left.
    fn work(&self, thread_ix: usize) {
        let mut r = self.remaining.load(Ordering::Acquire);
        while r > 0 {
            if let Err(seen) = self.remaining.compare_exchange_weak(r, r - 1, Ordering::AcqRel, Ordering::Acquire) {
                r = seen;
                continue;
            }
            // SAFETY: the claim above keeps this region open until `done` counts it, so the job is the one published
            // before `remaining` was set, and its closure is still borrowed by the caller of `run`.
            let outcome = unsafe {
                let job = &*self.job.get();
                let chunk_ix = job.n_chunks - r;
                catch_unwind(AssertUnwindSafe(|| (job.call)(job.body, chunk_ix, thread_ix)))
            };
            if let Err(payload) = outcome {
                lock(&self.panic).get_or_insert(payload);
            }
            self.done.fetch_add(1, Ordering::Release);
            r = self.remaining.load(Ordering::Acquire);
        }
    }

    fn worker(&self, thread_ix: usize) {
        loop {
            self.work(thread_ix);
            if !self.wait_for_work() {
                return;
            }
        }
    }

    /// False when the pool is being dropped.
    fn wait_for_work(&self) -> bool {
        let ready = || self.remaining.load(Ordering::Acquire) > 0 || self.stop.load(Ordering::Acquire);
        for _ in 0..N_SPINS {
            if ready() {
                return !self.stop.load(Ordering::Acquire);
            }
            std::hint::spin_loop();
        }
        let began = Instant::now();
        while began.elapsed() < YIELD_FOR {
            if ready() {
                return !self.stop.load(Ordering::Acquire);
            }
            std::thread::yield_now();
        }
        let mut guard = lock(&self.sleep);
        // Announce first, look second; the caller publishes first and looks for sleepers second. Both orders are
        // sequentially consistent, so one of the two sees the other.
        self.n_asleep.fetch_add(1, Ordering::SeqCst);
        while self.remaining.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::SeqCst) {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.n_asleep.fetch_sub(1, Ordering::SeqCst);
        !self.stop.load(Ordering::SeqCst)
    }

    fn wake_sleepers(&self) {
        if self.n_asleep.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&self.sleep);
            self.wake.notify_all();
        }
    }
}

/// A fixed set of threads, the caller's included, that runs one parallel region at a time.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("n_threads", &self.n_threads()).finish()
    }
}

impl Pool {
    /// A pool of `n_threads` threads, of which the caller of [`Pool::run`] is one (0 counts as 1).
    /// Where the system refuses a thread, the pool has fewer.
    #[must_use]
    pub fn new(n_threads: usize) -> Self {
        fn idle(_: *const (), _: usize, _: usize) {}
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(Job { body: std::ptr::null(), call: idle, n_chunks: 0 }),
            remaining: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            n_asleep: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        let mut workers = Vec::new();
        for thread_ix in 1..n_threads {
            let shared = Arc::clone(&shared);
            let name = format!("ingot-cpu-{thread_ix}");
            match std::thread::Builder::new().name(name).spawn(move || shared.worker(thread_ix)) {
                Ok(handle) => workers.push(handle),
                Err(_) => break,
            }
        }
        Self { shared, workers }
    }

    /// Threads that take part in a region, the caller's included.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(chunk_ix)` once for every chunk in `0..n_chunks`, on any thread, and returns when all are done.
    /// A panic in a chunk is raised again here, after the other chunks have ended.
    pub fn run(&self, n_chunks: usize, body: impl Fn(usize) + Sync) {
        self.run_indexed(n_chunks, |chunk_ix, _| body(chunk_ix));
    }

    /// [`Pool::run`] with `body(chunk_ix, thread_ix)`: no two chunks of one call run at once with the same
    /// `thread_ix` (below [`Pool::n_threads`]), so it may choose a scratch memory.
    pub fn run_indexed<F: Fn(usize, usize) + Sync>(&self, n_chunks: usize, body: F) {
        let shared = &*self.shared;
        let alone = n_chunks <= 1 || self.workers.is_empty();
        if alone || shared.busy.swap(true, Ordering::Acquire) {
            (0..n_chunks).for_each(|chunk_ix| body(chunk_ix, 0));
            return;
        }
        unsafe fn call<F: Fn(usize, usize)>(body: *const (), chunk_ix: usize, thread_ix: usize) {
            // SAFETY: `body` is the `&F` stored below, borrowed until the region has ended.
            unsafe { (*body.cast::<F>())(chunk_ix, thread_ix) }
        }
        // SAFETY: `busy` is ours and `remaining` is 0 (the last region ended), so nobody else touches the job.
        unsafe {
            *shared.job.get() = Job { body: (&raw const body).cast(), call: call::<F>, n_chunks };
        }
        shared.done.store(0, Ordering::Relaxed);
        shared.remaining.store(n_chunks, Ordering::SeqCst);
        shared.wake_sleepers();
        shared.work(0);
        let mut n_spins = 0;
        while shared.done.load(Ordering::Acquire) < n_chunks {
            n_spins += 1;
            if n_spins < N_SPINS {
                std::hint::spin_loop();
            } else {
                // The last chunk's thread may be waiting for this very core.
                std::thread::yield_now();
            }
        }
        let payload = lock(&shared.panic).take();
        shared.busy.store(false, Ordering::Release);
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_sleepers();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a chunk, so joining cannot fail in a way worth telling.
            let _ = worker.join();
        }
    }
}

/// A slice whose disjoint parts are written by different threads of one region.
pub(crate) struct Shards<'a, T> {
    start: *mut T,
    len: usize,
    owner: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the parts handed out are disjoint (the contract of `part`), so sharing is as sending `&mut [T]`.
unsafe impl<T: Send> Sync for Shards<'_, T> {}

impl<'a, T> Shards<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: std::marker::PhantomData }
    }

    /// Elements `at..at + len`.
    ///
    /// # Safety
    /// No other part that overlaps this one may be alive.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "part {at}+{len} outside a slice of {}", self.len);
        // SAFETY: in bounds by the assertion, unaliased by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_chunk_runs_once() {
        for n_threads in [0, 1, 2, 3, 8] {
            let pool = Pool::new(n_threads);
            for n_chunks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicU32> = (0..n_chunks).map(|_| AtomicU32::new(0)).collect();
                pool.run(n_chunks, |c| {
                    counts[c].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{n_threads} threads, {n_chunks}");
            }
        }
    }

    #[test]
    fn many_short_regions_see_each_others_writes() {
        let pool = Pool::new(4);
        let mut data = vec![0u64; 64];
        for _ in 0..20_000 {
            let shards = Shards::new(&mut data);
            // SAFETY: one element a chunk.
            pool.run(64, |c| unsafe { shards.part(c, 1)[0] += 1 });
        }
        assert!(data.iter().all(|&v| v == 20_000));
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3);
        let total = AtomicU32::new(0);
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            pool.run(5, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(total.into_inner(), 100);
    }

    #[test]
    fn thread_index_is_exclusive() {
        let pool = Pool::new(4);
        let taken: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        pool.run_indexed(2000, |_, t| {
            assert!(!taken[t].swap(true, Ordering::AcqRel), "two chunks at once on thread index {t}");
            std::hint::spin_loop();
            taken[t].store(false, Ordering::Release);
        });
    }

    #[test]
    fn a_panic_is_raised_again_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in [0, 7, 99] {
            let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(100, |c| assert!(c != bad, "chunk {c}"))));
            let message = *outcome.expect_err("must panic").downcast::<String>().expect("a message");
            assert!(message.contains(&format!("chunk {bad}")), "{message}");
        }
        let total = AtomicU32::new(0);
        pool.run(10, |_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 10);
    }

    #[test]
    fn nested_and_concurrent_regions_complete() {
        let pool = Pool::new(2);
        let total = AtomicU32::new(0);
        pool.run(4, |_| {
            pool.run(8, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(8, |_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 32 + 3 * 200 * 8);
    }
}
