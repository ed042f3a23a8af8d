//! Files beside the repository: golden logits and real models. A test that misses them says so and does not pass silently.

use std::path::PathBuf;

/// `../shared/NAME` seen from the repository's root, or `None` after a line that says what was skipped.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
