//! Ctrl-C: the first asks for a clean stop, the second ends the process.

use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static PRESSED: AtomicBool = AtomicBool::new(false);

/// What a shell reports for a program that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;

/// From here on the first Ctrl-C only sets [`pressed`]. Before, while there is nothing to stop cleanly, it ends the
/// process as usual.
pub(crate) fn install() -> Result<()> {
    let handler = || {
        if PRESSED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_INTERRUPTED);
        }
    };
    ctrlc::set_handler(handler).context("Ctrl-C cannot be handled")
}

/// Whether Ctrl-C was pressed.
pub(crate) fn pressed() -> bool {
    PRESSED.load(Ordering::Relaxed)
}

/// Forgets that Ctrl-C was pressed: what it stopped has ended.
pub(crate) fn clear() {
    PRESSED.store(false, Ordering::Relaxed);
}
