//! Files beside the repository: golden logits and real models. A test that misses them says so and does not pass silently.

use std::io::Write;
use std::path::PathBuf;

/// Says what a test leaves out. It goes past the test runner, which hides what passing tests print.
pub fn skip(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}

/// `../shared/NAME` seen from the repository's root, or `None` after a line that says what was skipped.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(name);
    if path.exists() {
        return Some(path);
    }
    skip(&format!("{} is not there", path.display()));
    None
}

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
