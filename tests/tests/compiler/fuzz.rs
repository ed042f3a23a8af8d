//! The fuzz targets on their seeds with small changes, the same on every machine.

use ingot_tests::gguf_file::GgufFile;
use ingot_tests::rng::Rng;
use ingot_tests::shared::root;
use std::path::PathBuf;

// In its own crate it is public.
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/lib.rs"]
pub(crate) mod any_bytes;

/// Pieces of text that parsers have to think about.
const WORDS: [&str; 22] = [
    "0",
    "1",
    "-1",
    "7",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "1e39",
    "NaN",
    "\"",
    "=",
    ",",
    "\n",
    "{",
    "}",
    "[",
    "]",
    ":",
    "tokens",
    "v0",
];

/// Changes bytes in a few places: other bytes, other digits, words put in, runs taken out, doubled or moved.
fn change(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.below(bytes.len() as u32) as usize;
        let end = bytes.len().min(at + 1 + rng.below(24) as usize);
        match rng.below(7) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => {
                let digit = (at..bytes.len()).find(|ix| bytes[*ix].is_ascii_digit()).unwrap_or(at);
                bytes[digit] = b'0' + rng.below(10) as u8;
            }
            2 => drop(bytes.splice(at..at, WORDS[rng.below(WORDS.len() as u32) as usize].bytes())),
            3 => {
                // A whole number becomes another.
                let is_digit = |ix: &usize| bytes[*ix].is_ascii_digit();
                let Some(first) = (at..bytes.len()).find(is_digit) else { continue };
                let after = (first..bytes.len()).find(|ix| !is_digit(ix)).unwrap_or(bytes.len());
                bytes.splice(first..after, WORDS[rng.below(9) as usize].bytes());
            }
            4 => drop(bytes.drain(at..end)),
            5 => {
                let run = bytes[at..end].to_vec();
                bytes.splice(at..at, run);
            }
            _ => {
                // A line in another place.
                let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
                let (from, to) = (rng.below(lines.len() as u32) as usize, rng.below(lines.len() as u32) as usize);
                let mut lines = lines;
                lines.swap(from, to);
                *bytes = lines.concat();
            }
        }
    }
}

/// Inputs of a target that cargo-fuzz found and that were kept, by file name: each reaches code that others do not, or was a
/// finding.
fn kept(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = root().join("tests/fuzz/kept").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder's entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

fn fuzz(name: &str, target: impl Fn(&[u8]) + std::panic::RefUnwindSafe, n_changed: u32) {
    for (path, bytes) in kept(name) {
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "{}", path.display());
    }
    let (_, seeds) = any_bytes::seeds().into_iter().find(|(found, _)| *found == name).expect("a target's name");
    for (ix, seed) in seeds.iter().enumerate() {
        target(seed);
        for n in 0..n_changed {
            let mut bytes = seed.clone();
            change(&mut bytes, &mut Rng::new(u64::from(n) << 8 | ix as u64));
            // A panic says enough but for its number.
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{name}: change {n} of seed {ix}");
        }
    }
}

#[test]
#[ignore = "writes tests/fuzz/corpus"]
fn seeds_for_cargo_fuzz() {
    for (target, seeds) in any_bytes::seeds() {
        let folder = root().join("tests/fuzz/corpus").join(target);
        std::fs::create_dir_all(&folder).expect("is made");
        for (ix, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed{ix}")), seed).expect("is written");
        }
    }
}

/// Parsers of checkpoints with their seeds' changes, change upon change, for so many seconds each: `INGOT_FUZZ_SECONDS`.
#[test]
#[ignore = "takes minutes"]
fn any_checkpoint_for_long() {
    let seconds = std::env::var("INGOT_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let mut rng = Rng::new(std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64));
    for (name, seeds) in any_bytes::checkpoints::seeds() {
        let target = any_bytes::checkpoints::target(name).expect("a target of each name");
        let (started, mut n_runs) = (std::time::Instant::now(), 0);
        let mut kept = seeds.clone();
        while started.elapsed().as_secs() < seconds {
            let ix = rng.below(kept.len() as u32) as usize;
            let mut bytes = kept[ix].clone();
            change(&mut bytes, &mut rng);
            let outcome = std::panic::catch_unwind(|| any_bytes::bounded(&bytes, target));
            if outcome.is_err() {
                let path = std::env::temp_dir().join(format!("ingot-fuzz-{name}"));
                std::fs::write(&path, &bytes).expect("is written");
                panic!("{name}: {} is a finding", path.display());
            }
            // Changes upon changes, which the seeds take turns with.
            match kept.len() {
                0..64 => kept.push(bytes),
                n if rng.below(8) > 0 => kept[seeds.len() + ix % (n - seeds.len())] = bytes,
                _ => kept.truncate(seeds.len()),
            }
            n_runs += 1;
        }
        println!("{name}: {n_runs} runs");
    }
}

#[test]
fn any_artifact() {
    fuzz("artifact", any_bytes::artifact, 800);
}

#[test]
fn any_plan() {
    fuzz("plan", any_bytes::plan, 3000);
}

#[test]
fn any_graph() {
    fuzz("graph", any_bytes::graph, 10_000);
}

#[test]
fn any_table_of_tiles() {
    fuzz("tiles", any_bytes::tiles, 3000);
}

/// The same for parsers of checkpoints, which are held to memory in proportion.
fn fuzz_checkpoint(name: &str, n_changed: u32) {
    let target = any_bytes::checkpoints::target(name).expect("a target's name");
    fuzz(name, |bytes| any_bytes::bounded(bytes, target), n_changed);
}

#[test]
fn any_safetensors_file() {
    fuzz_checkpoint("safetensors", 3000);
}

#[test]
fn any_gguf_file() {
    fuzz_checkpoint("gguf", 3000);
}

#[test]
fn any_configuration() {
    fuzz_checkpoint("config", 10_000);
}

#[test]
fn any_index() {
    fuzz_checkpoint("index", 1000);
}

#[test]
fn any_map_of_quantization() {
    fuzz_checkpoint("quantization", 1000);
}

#[test]
fn any_tokenizer() {
    fuzz_checkpoint("tokenizer", 2000);
}

/// A list whose values are small in the file, and would not be in memory.
#[test]
fn a_list_of_bytes_in_a_gguf_file_takes_memory_in_proportion() {
    let mut file = GgufFile::default();
    file.text("general.architecture", "llama");
    file.list("other", 0, 4 << 20, &vec![7; 4 << 20]);
    any_bytes::bounded(&file.bytes(), any_bytes::checkpoints::gguf);
}
