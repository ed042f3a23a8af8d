//! The fuzz targets on their seeds with small changes, the same on every machine.

use ingot_tests::rng::Rng;
use ingot_tests::shared::root;

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

fn fuzz(name: &str, target: fn(&[u8]), n_changed: u32) {
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

#[test]
fn any_artifact() {
    fuzz("artifact", any_bytes::artifact, 1500);
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

#[test]
fn any_safetensors_file() {
    fuzz("safetensors", any_bytes::checkpoints::safetensors, 3000);
}

#[test]
fn any_gguf_file() {
    fuzz("gguf", any_bytes::checkpoints::gguf, 3000);
}

#[test]
fn any_configuration() {
    fuzz("config", any_bytes::checkpoints::config, 10_000);
}

#[test]
fn any_index() {
    fuzz("index", any_bytes::checkpoints::index, 1000);
}
