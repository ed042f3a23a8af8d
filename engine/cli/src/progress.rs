//! A progress bar for loads that take long enough to be noticed.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use ingot::Progress;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Loads that are done by then show nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// A bar on standard error, if that is a terminal.
pub(crate) fn bar(verb: &'static str) -> Option<Progress> {
    bar_of(verb, "{bytes}/{total_bytes} ({bytes_per_sec}, {eta} left)")
}

/// The same for work that is counted in something else than bytes.
pub(crate) fn count(verb: &'static str) -> Option<Progress> {
    bar_of(verb, "{pos}/{len} ({eta} left)")
}

/// A bar, or what says nothing where there is none.
pub(crate) fn quiet(bar: Option<Progress>) -> Progress {
    bar.unwrap_or_else(|| Box::new(|_, _| {}))
}

fn bar_of(verb: &'static str, numbers: &'static str) -> Option<Progress> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let started = Instant::now();
    let mut shown: Option<ProgressBar> = None;
    Some(Box::new(move |done, total| {
        if started.elapsed() < PATIENCE {
            return;
        }
        let bar = shown.get_or_insert_with(|| new_bar(verb, numbers, started));
        bar.set_length(total);
        bar.set_position(done);
    }))
}

fn new_bar(verb: &str, numbers: &str, started: Instant) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{verb} {{wide_bar}} {numbers}"));
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    // The closure is dropped when loading ends, however it ends, and the line goes with it.
    let bar = ProgressBar::new(0).with_elapsed(started.elapsed()).with_finish(ProgressFinish::AndClear);
    bar.with_style(style)
}
