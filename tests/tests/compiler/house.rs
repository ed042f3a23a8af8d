//! The house's own rules: which crate may depend on which, where `unsafe` may stand, and that the library shows its use.

use ingot_tests::shared::root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Names that a manifest's own sections list: `name = ...` or `name.workspace = true`. What only tests need does not count.
fn manifest(path: &Path) -> (String, BTreeSet<String>) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut section, mut name, mut found) = (String::new(), String::new(), BTreeSet::new());
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').into();
            // `[dependencies.name]`
            if let Some((_, name)) = section.split_once("dependencies.").filter(|(kind, _)| !kind.ends_with("dev-")) {
                found.insert(name.trim_matches('"').into());
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let key = key.trim().split('.').next().unwrap_or_default();
        if section == "package" && key == "name" {
            name = value.trim().trim_matches('"').into();
        } else if section.ends_with("dependencies") && !section.ends_with("dev-dependencies") && !key.starts_with('#') {
            found.insert(key.into());
        }
    }
    (name, found)
}

/// Every package that a package needs to be built, by name, transitively: the house's own from their manifests, which
/// tell tests' needs apart, others from the lock file. No process, no network.
fn needs() -> BTreeMap<String, BTreeSet<String>> {
    let mut direct: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("the workspace has a lock file");
    let quoted = |line: &str| line.split('"').nth(1).unwrap_or_default().to_owned();
    for package in lock.split("[[package]]").skip(1) {
        let name = package.lines().find(|line| line.starts_with("name = ")).map(quoted).unwrap_or_default();
        let dependencies = package.lines().filter(|line| line.starts_with(" \""));
        let dependencies = dependencies.map(|line| quoted(line).split(' ').next().unwrap_or_default().to_owned());
        direct.entry(name).or_default().extend(dependencies);
    }
    let members = ["compiler/ir", "compiler", "models", "shaders", "engine/runtime", "engine/ingot", "engine/cli"];
    for member in members.into_iter().chain(["benches", "tests"]) {
        let (name, found) = manifest(&root().join(member).join("Cargo.toml"));
        assert!(!found.is_empty(), "{name} needs nothing?");
        direct.insert(name, found);
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
    // The reading itself is right: what must be there is found.
    for (package, wanted) in [
        ("ingot-runtime", "wgpu"),
        ("ingot-compiler", "naga"),
        ("ingot-cli", "ingot-ir"),
        ("ingot-runtime", "wgpu-hal"),
    ] {
        assert!(needs[package].contains(wanted), "{package} does not depend on {wanted}");
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
    let allowed = [
        "engine/runtime/src/gpu/",
        "engine/runtime/src/cpu/",
        "models/src/formats/safetensors.rs",
        "compiler/src/artifact/read.rs",
        // An allocator that counts.
        "models/tests/memory.rs",
    ];
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

/// Public items of a module by name, and whether documentation has an example in which the name occurs. What a module of
/// the same crate defines is seen there.
fn public_items(text: &str) -> Vec<(&str, bool)> {
    let kinds = ["async", "unsafe", "const", "fn", "struct", "enum", "trait", "type", "static"];
    let words = |line| str::split(line, |c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let (mut found, mut examples, mut fence) = (Vec::new(), Vec::new(), None);
    for line in text.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///").map(str::trim) {
            match (doc.strip_prefix("```"), fence) {
                (Some(kind), None) => fence = Some(["", "no_run"].contains(&kind)),
                (Some(_), Some(_)) => fence = None,
                (None, Some(true)) => examples.extend(words(doc)),
                (None, _) => {}
            }
        } else if !line.starts_with("#[") {
            let mut item = words(line.strip_prefix("pub ").unwrap_or_default()).peekable();
            let name = match item.next() {
                Some("use") if item.peek().is_some_and(|from| text.contains(&format!("\nmod {from};"))) => None,
                // One name a line: each has an example of its own.
                Some("use") => item.last().filter(|_| !line.contains(['{', '*'])).or(Some(line)),
                Some(kind) if kinds.contains(&kind) => item.find(|word| !kinds.contains(word)),
                _ => None,
            };
            found.extend(name.map(|name| (name, examples.contains(&name))));
            examples.clear();
        }
    }
    found
}

#[test]
fn public_items_of_the_library_have_examples() {
    let (mut files, mut n_items, mut missing) = (Vec::new(), 0, Vec::new());
    sources(&root().join("engine/ingot/src"), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let items = public_items(&text);
        n_items += items.len();
        let without = items.iter().filter(|(_, has_example)| !has_example);
        missing.extend(without.map(|(name, _)| format!("{}: {name}", file.display())));
    }
    assert!(missing.is_empty(), "write an example for each of\n{}", missing.join("\n"));
    assert!(n_items > 150, "only {n_items} items were found");
    // The reading itself is right.
    let text = "/// One.\n/// ```\n/// f(1);\n/// ```\n#[must_use]\npub const fn f() {}\n/// ```text\n/// S\n/// ```\npub struct S {\n\
                pub field: u32,\n}\npub use a::T;\nmod b;\npub use b::U;\npub use a::{V, W};";
    assert_eq!(public_items(text), [("f", true), ("S", false), ("T", false), ("pub use a::{V, W};", false)]);
}
