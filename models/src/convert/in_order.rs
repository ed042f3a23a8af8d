//! Rows encoded on all threads, and written in their order by one.

use super::Told;
use crate::error::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Encodes `n_rows` rows, `chunk_rows` at a time, in parallel, while `write` gets the ones before and says how many bytes it
/// has written, which are told. Some chunks a thread are in memory.
///
/// # Errors
/// The first of `write` or `told`; nothing is encoded after it but what is in work.
pub(super) fn in_order<T: Send>(
    n_rows: usize,
    chunk_rows: usize,
    encode: impl Fn(Range<usize>) -> T + Sync,
    mut write: impl FnMut(T) -> Result<u64> + Send,
    told: &mut Told<'_>,
) -> Result<()> {
    let batch_rows = chunk_rows * 2 * rayon::current_num_threads();
    let batch = |first: usize| -> Vec<T> {
        let end = (first + batch_rows).min(n_rows);
        let firsts: Vec<usize> = (first..end).step_by(chunk_rows).collect();
        firsts.into_par_iter().map(|at| encode(at..(at + chunk_rows).min(end))).collect()
    };
    let mut ready = batch(0);
    let mut first = batch_rows;
    while !ready.is_empty() {
        let next = || if first < n_rows { batch(first) } else { Vec::new() };
        let all = || ready.drain(..).try_fold(0, |sum, chunk| write(chunk).map(|n| sum + n));
        let (next, written) = rayon::join(next, all);
        told(written?)?;
        ready = next;
        first += batch_rows;
    }
    Ok(())
}
