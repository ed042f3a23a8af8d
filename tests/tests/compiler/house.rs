//! The house's own rules: which crate may depend on which, and where `unsafe` may stand.

use ingot_tests::shared::root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every package that a package needs to be built, by name, transitively.
fn needs() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let run = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(run.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&run.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&run.stdout).expect("cargo prints JSON");
    let list = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let names: BTreeMap<String, String> =
        list(&metadata, "packages").iter().map(|package| (text(package, "id"), text(package, "name"))).collect();
    let mut direct: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"], "nodes") {
        let entry = direct.entry(names[&text(&node, "id")].clone()).or_default();
        for dependency in list(&node, "deps") {
            // What only tests need is not part of the house.
            if list(&dependency, "dep_kinds").iter().any(|kind| kind["kind"].as_str() != Some("dev")) {
                entry.insert(names[&text(&dependency, "pkg")].clone());
            }
        }
    }
    let all = |name: &String| {
        let (mut found, mut left) = (BTreeSet::new(), vec![name.clone()]);
        while let Some(name) = left.pop() {
            for next in direct.get(&name).into_iter().flatten() {
                if found.insert(next.clone()) {
                    left.push(next.clone());
                }
            }
        }
        found
    };
    direct.keys().map(|name| (name.clone(), all(name))).collect()
}

#[test]
fn dependencies_point_one_way() {
    let needs = needs();
    let never: [(&str, &[&str]); 5] = [
        ("ingot-ir", &["ingot-models", "ingot-compiler", "ingot-shaders", "ingot-runtime", "ingot", "naga", "wgpu"]),
        ("ingot-models", &["ingot-compiler", "ingot-shaders", "ingot-runtime", "ingot", "naga", "wgpu"]),
        ("ingot-shaders", &["ingot-ir", "ingot-models", "ingot-compiler", "ingot-runtime", "ingot", "wgpu"]),
        ("ingot-compiler", &["ingot-models", "ingot-runtime", "ingot", "wgpu", "wgpu-core", "wgpu-hal"]),
        ("ingot-runtime", &["ingot-compiler", "ingot-models", "ingot-shaders", "ingot"]),
    ];
    for (package, forbidden) in never {
        let found = needs.get(package).unwrap_or_else(|| panic!("no package {package}"));
        let broken: Vec<_> = forbidden.iter().filter(|name| found.contains(**name)).collect();
        assert!(broken.is_empty(), "{package} depends on {broken:?}");
    }
    let on_cli: Vec<_> = needs.iter().filter(|(_, found)| found.contains("ingot-cli")).map(|(name, _)| name).collect();
    assert!(on_cli.is_empty(), "{on_cli:?} depend on ingot-cli");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder's entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Whether a line begins a piece of unsafe code.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or("");
    let begins =
        |rest: &str| ["{", "fn ", "impl ", "extern ", "trait "].iter().any(|next| rest.trim_start().starts_with(next));
    code.match_indices("unsafe").any(|(at, word)| begins(&code[at + word.len()..]))
}

#[test]
fn unsafe_stands_where_it_may() {
    let root = root();
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "only {} files", files.len());
    let allowed = ["engine/runtime/src/gpu/", "engine/runtime/src/cpu/", "models/src/formats/safetensors.rs"];
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (ix, line) in text.lines().enumerate().filter(|(_, line)| is_unsafe(line)) {
            assert!(
                allowed.iter().any(|place| name.starts_with(place)),
                "{name}:{}: unsafe may not stand here: {line}",
                ix + 1
            );
        }
    }
}
