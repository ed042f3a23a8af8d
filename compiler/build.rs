//! A fingerprint of everything that decides the compiler's output but its inputs: its own sources and the shaders'.
//! Plans that were kept by another build are so told from this one's.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let mut hasher = DefaultHasher::new();
    for folder in ["src", "ir/src", "../shaders/src", "../shaders/kernels", "../shaders/lib", "../shaders/slot"] {
        let folder = root.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        hash(&folder, &mut hasher);
    }
    println!("cargo::rustc-env=INGOT_COMPILER_FINGERPRINT={:016x}", hasher.finish());
}

/// Names and contents of a folder's files, in order of names.
fn hash(folder: &Path, hasher: &mut DefaultHasher) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        path.file_name().hash(hasher);
        if path.is_dir() {
            hash(&path, hasher);
        } else {
            std::fs::read(&path).unwrap_or_default().hash(hasher);
        }
    }
}
