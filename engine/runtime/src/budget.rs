//! How much memory may be used, and whether a plan fits it. Asked before anything is allocated.

use crate::account::Account;
use crate::error::RuntimeError;
use crate::world::Limits;
use ingot_ir::memory::{Bytes, MemoryTable};
use ingot_ir::plan::Plan;

/// Share of the machine's memory that is ours by default where device and processor share it.
const RAM_PERCENT: u64 = 75;

/// What may be used of the machine's memory by default; `None` where its size cannot be told.
pub(crate) fn ram_budget() -> Option<u64> {
    ram_bytes().map(|bytes| bytes / 100 * RAM_PERCENT)
}

/// Bytes of a loaded plan (mapped weights count). An error with the table if `budget` or the account's room is less.
pub(crate) fn check(plan: &Plan, limits: &Limits, budget: Option<u64>, account: &Account) -> Result<u64, RuntimeError> {
    let budget = [budget, account.room()].into_iter().flatten().min();
    let table = MemoryTable::new(plan, limits.max_sequences, &limits.n_pages);
    match budget {
        Some(budget) if table.total() > budget => Err(RuntimeError::OverBudget { table, budget: Bytes(budget) }),
        _ => Ok(table.total()),
    }
}

/// The machine's memory, or the container's share of it.
#[cfg(target_os = "linux")]
fn ram_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse::<u64>().ok());
    Some(container.map_or(machine, |bytes| bytes.min(machine)))
}

/// The machine's memory.
#[cfg(target_os = "macos")]
fn ram_bytes() -> Option<u64> {
    let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Unknown here: a budget has to be given.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn ram_bytes() -> Option<u64> {
    None
}
