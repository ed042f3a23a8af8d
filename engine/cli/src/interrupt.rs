//! Ctrl-C: the first asks for a clean stop, the second ends the process.

use anyhow::{Result, anyhow};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static PRESSED: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();

/// What a shell reports for a program that SIGINT ended.
pub(crate) const EXIT_INTERRUPTED: i32 = 130;

/// Whether somebody asks [`pressed`].
static ARMED: AtomicBool = AtomicBool::new(false);

/// From here on the first Ctrl-C only sets [`pressed`]. Before, and after [`release`], while there is nothing to stop
/// cleanly, it ends the process as usual. Whoever has something to stop calls it.
pub(crate) fn install() -> Result<()> {
    ARMED.store(true, Ordering::Relaxed);
    let handler = || {
        if PRESSED.swap(true, Ordering::Relaxed) || !ARMED.load(Ordering::Relaxed) {
            std::process::exit(EXIT_INTERRUPTED);
        }
    };
    let installed = INSTALLED.get_or_init(|| ctrlc::set_handler(handler).map_err(|error| error.to_string()));
    installed.as_ref().copied().map_err(|error| anyhow!("Ctrl-C cannot be handled: {error}"))
}

/// Nothing is left to stop: Ctrl-C ends the process again.
pub(crate) fn release() {
    ARMED.store(false, Ordering::Relaxed);
}

/// Whether Ctrl-C was pressed.
pub(crate) fn pressed() -> bool {
    PRESSED.load(Ordering::Relaxed)
}

/// Forgets that Ctrl-C was pressed: what it stopped has ended.
pub(crate) fn clear() {
    PRESSED.store(false, Ordering::Relaxed);
}
