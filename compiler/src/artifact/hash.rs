//! The hash tree's leaves.

use super::LEAF_BYTES;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A leaf or the root.
pub(super) type Hash = [u8; 32];

/// Digits of the root in the header.
pub(super) const N_DIGITS: usize = 64;

/// The hash of some bytes.
pub(super) fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// The hash of a file's part before its data, with the root's digits, which begin at `root_at`, read as zeros.
pub(super) fn hash_head(head: &[u8], root_at: usize) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&head[..root_at]).update(&[b'0'; N_DIGITS]).update(&head[root_at + N_DIGITS..]);
    *hasher.finalize().as_bytes()
}

/// BLAKE3 of some bytes in hexadecimal digits: the key of what depends on them.
pub fn hash_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// BLAKE3 of a file in hexadecimal digits, read in pieces and hashed on all cores.
///
/// # Errors
/// The system's.
pub fn hash_file(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 16 << 20];
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update_rayon(&piece[..n]);
    }
}

/// The byte range of each leaf of the weights.
pub(super) fn leaf_ranges(weights: Range<u64>) -> Vec<Range<u64>> {
    let starts = (weights.start..weights.end).step_by(LEAF_BYTES as usize);
    starts.map(|start| start..(start + LEAF_BYTES).min(weights.end)).collect()
}

/// The first leaf that differs from its hash, looked for on up to `n_threads` threads.
pub(super) fn first_damaged(file: &[u8], ranges: &[Range<u64>], hashes: &[u8], n_threads: usize) -> Option<usize> {
    let next = AtomicUsize::new(0);
    let damaged = Mutex::new(None::<usize>);
    let work = || {
        loop {
            let ix = next.fetch_add(1, Ordering::Relaxed);
            let (Some(range), Some(expected)) = (ranges.get(ix), hashes.as_chunks::<32>().0.get(ix)) else { return };
            if hash(&file[range.start as usize..range.end as usize]) != *expected {
                let mut first = damaged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *first = Some(first.map_or(ix, |other| other.min(ix)));
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..n_threads.clamp(1, ranges.len().max(1)) {
            // Where the system gives no more threads, those that there are do the work.
            drop(std::thread::Builder::new().spawn_scoped(scope, work));
        }
        work();
    });
    damaged.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
