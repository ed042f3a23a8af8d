//! Bytes that models have, counted together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The memory of one or several models: whoever is loaded with a clone of it is counted in it. A new one has no limit of
/// its own; each device has one in any case.
#[derive(Clone, Debug, Default)]
pub struct Account(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    active: AtomicU64,
    peak: AtomicU64,
    limit: AtomicU64,
    cached: AtomicU64,
    /// How often all was to be forgotten.
    n_clearings: AtomicU64,
}

impl Default for Numbers {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { active: zero(), peak: zero(), limit: AtomicU64::new(u64::MAX), cached: zero(), n_clearings: zero() }
    }
}

impl Account {
    /// Bytes that models have now: weights, pages of keys and values, and what they compute with. Mapped files count.
    pub fn active(&self) -> u64 {
        self.0.active.load(Ordering::Acquire)
    }
    /// The most that they had at one time since the beginning, or since [`Account::reset_peak`].
    pub fn peak(&self) -> u64 {
        self.0.peak.load(Ordering::Acquire)
    }
    /// Lets [`Account::peak`] begin anew.
    pub fn reset_peak(&self) {
        self.0.peak.store(self.active(), Ordering::Release);
    }
    /// Bytes of pages that no request uses but that hold what earlier ones have read, for later ones to find. They are a
    /// part of the active ones, and are used again as soon as a request needs them.
    pub fn cached(&self) -> u64 {
        self.0.cached.load(Ordering::Acquire)
    }
    /// Has the models forget what [`Account::cached`] counts, each before its next step.
    pub fn clear_cache(&self) {
        self.0.n_clearings.fetch_add(1, Ordering::AcqRel);
    }
    /// Bytes that models may have together; `None` if that is left to the devices.
    pub fn limit(&self) -> Option<u64> {
        Some(self.0.limit.load(Ordering::Acquire)).filter(|limit| *limit != u64::MAX)
    }
    /// Refuses to load what would need more. Models that are loaded keep what they have.
    pub fn set_limit(&self, bytes: Option<u64>) {
        self.0.limit.store(bytes.unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Bytes that may still be had.
    pub(crate) fn room(&self) -> Option<u64> {
        self.limit().map(|limit| limit.saturating_sub(self.active()))
    }
    /// Counts bytes in, if they are within the limit.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let limit = self.0.limit.load(Ordering::Acquire);
        let grow = |active: u64| active.checked_add(bytes).filter(|sum| *sum <= limit);
        let before = self.0.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, grow).ok()?;
        self.0.peak.fetch_max(before + bytes, Ordering::AcqRel);
        Some(Reservation { account: self.clone(), bytes })
    }
    pub(crate) fn n_clearings(&self) -> u64 {
        self.0.n_clearings.load(Ordering::Acquire)
    }
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    account: Account,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.0.active.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What one world adds to the cached bytes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Cached {
    account: Account,
    bytes: u64,
}

impl Cached {
    pub(crate) fn new(account: &Account) -> Self {
        Self { account: account.clone(), bytes: 0 }
    }
    pub(crate) fn set(&mut self, bytes: u64) {
        // Wraps where it falls; the sum is right.
        self.account.0.cached.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::AcqRel);
        self.bytes = bytes;
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_while_they_are_held() {
        let account = Account::default();
        let clone = account.clone();
        let first = account.reserve(100).expect("there is no limit");
        account.set_limit(Some(150));
        assert!(clone.reserve(51).is_none() && clone.room() == Some(50));
        let second = clone.reserve(50).expect("it fits");
        drop(first);
        assert_eq!((account.active(), account.peak(), account.limit()), (50, 150, Some(150)));
        account.reset_peak();
        account.set_limit(None);
        drop(second);
        assert_eq!((account.active(), account.peak(), account.limit()), (0, 50, None));
        assert!(account.reserve(u64::MAX).is_some_and(|_| account.reserve(1).is_none()), "sums do not overflow");
    }

    #[test]
    fn cached_bytes_are_those_of_all_worlds() {
        let account = Account::default();
        let (mut a, mut b) = (Cached::new(&account), Cached::new(&account));
        a.set(10);
        b.set(5);
        a.set(3);
        assert_eq!(account.cached(), 8);
        drop(a);
        assert_eq!(account.cached(), 5);
    }
}
