//! Artifacts: what is written is read, and nothing else is.

use crate::fuzz::any_bytes;
use crate::support::{OPTIONS, cases, small_cpu, small_gpu};
use ingot_compiler::artifact::{Artifact, ArtifactError, SourceFile, WeightsAt, WeightsOf, hash_file, write};
use ingot_compiler::{TargetProfile, compile, repack};
use ingot_ir::plan::Plan;
use ingot_ir::weight::{Format, ScaleType};
use ingot_tests::random::Shape;
use ingot_tests::stored::StoredTensors;
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

const AFFINE: Format = Format::Affine { bits: 4, group: 32, scales: ScaleType::F16 };

/// A small model compiled for a target, with its tensors.
fn model(target: &TargetProfile, format: Format) -> (Plan, StoredTensors) {
    let graph =
        Shape { hidden: 32, ffn: 64, n_heads: 2, n_kv_heads: 1, formats: [format; 8], ..Shape::llama() }.graph();
    let plan = compile(&graph, target, OPTIONS).expect("compiles");
    (plan, StoredTensors::random(&graph, 7))
}

fn files() -> Vec<(String, Vec<u8>)> {
    vec![("config.json".into(), b"{}".to_vec()), ("tokenizer.json".into(), vec![b'x'; 1000])]
}

fn write_to(path: &Path, plan: &Plan, tensors: &StoredTensors) {
    let find = |name: &str| tensors.bytes(name).into();
    let mut told = Vec::new();
    let mut progress = |done, total| told.push((done, total));
    write(path, plan, &[2, 7], &files(), WeightsOf::Tensors(&find), 2, &mut progress).expect("is written");
    assert!(told.last().is_some_and(|(done, total)| done == total), "{told:?}");
}

/// The bytes of an artifact for a GPU.
fn bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let (folder, (plan, tensors)) = (folder(), model(&TargetProfile::webgpu(), AFFINE));
        let path = folder.path().join("model.ingot");
        write_to(&path, &plan, &tensors);
        std::fs::read(path).expect("is read")
    })
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("there is room")
}

/// Opens bytes as a file, weights verified.
fn open(bytes: &[u8]) -> Result<Artifact, ArtifactError> {
    let folder = folder();
    let path = folder.path().join("model.ingot");
    std::fs::write(&path, bytes).expect("is written");
    let artifact = Artifact::open(&path)?;
    artifact.verify_weights(2)?;
    Ok(artifact)
}

/// Byte ranges of an artifact's tensors, in the order of the file, and where data begins.
fn tensors(bytes: &[u8]) -> (any_bytes::Places, usize) {
    any_bytes::tensors(bytes).expect("a header")
}

fn range_of(bytes: &[u8], name: &str) -> std::ops::Range<usize> {
    tensors(bytes).0.into_iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// Writes the hashes anew, as a malicious program would.
fn sign(bytes: &mut [u8]) {
    any_bytes::sign(bytes).expect("a place for the hashes");
}

/// Replaces a text by one of equal length, everywhere in a tensor.
fn replace(bytes: &mut [u8], tensor: &str, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let range = range_of(bytes, tensor);
    let part = &mut bytes[range];
    let at = part.windows(from.len()).position(|text| text == from.as_bytes()).unwrap_or_else(|| panic!("no {from}"));
    part[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn what_is_written_is_read() {
    let folder = folder();
    for (ix, format) in [Format::F32, Format::Bf16, Format::F16, AFFINE].into_iter().enumerate() {
        for target in [TargetProfile::vulkan(), TargetProfile::apple(), small_gpu()] {
            let (plan, tensors) = model(&target, format);
            let path = folder.path().join(format!("{ix}.ingot"));
            write_to(&path, &plan, &tensors);
            assert!(Artifact::is_one(&path));
            let artifact = Artifact::open(&path).unwrap_or_else(|error| panic!("{error}"));
            artifact.verify_weights(3).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(*artifact.plan(), plan);
            assert!(artifact.is_trusted());
            assert_eq!(artifact.manifest().weights, WeightsAt::Inside);
            assert_eq!(artifact.manifest().eos_ids, [2, 7]);
            assert_eq!(artifact.files().map(|(n, b)| (n.to_owned(), b.to_vec())).collect::<Vec<_>>(), files());
            for (id, weight) in plan.weights.iter() {
                let mut expected = vec![0; weight.n_bytes() as usize];
                repack::fill(weight, &|name| tensors.bytes(name).into(), 0, &mut expected);
                assert_eq!(artifact.weight(id), Some(&expected[..]), "{id} for {}", target.name);
            }
        }
    }
}

#[test]
fn an_artifact_for_the_cpu_holds_the_checkpoints_tensors() {
    let folder = folder();
    for format in [Format::F32, Format::Bf16, AFFINE] {
        for target in [TargetProfile::cpu(), small_cpu()] {
            let (plan, tensors) = model(&target, format);
            let path = folder.path().join("cpu.ingot");
            write_to(&path, &plan, &tensors);
            let artifact = Artifact::open(&path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(*artifact.plan(), plan);
            for segment in plan.weights.as_slice().iter().flat_map(|weight| &weight.segments) {
                let (found, expected) =
                    (artifact.tensor(&segment.tensor).expect("is there"), tensors.bytes(&segment.tensor));
                assert_eq!(
                    (found.values, found.scales, found.biases),
                    (expected.values, expected.scales, expected.biases),
                    "{}",
                    segment.tensor
                );
            }
            for weight in plan.weights.as_slice() {
                repack::check(weight, &|name| artifact.tensor(name).map(Into::into)).expect("everything is there");
            }
        }
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let folder = folder();
    let written = |name: &str, n_threads: usize| {
        let (plan, tensors) = model(&TargetProfile::vulkan(), AFFINE);
        let path = folder.path().join(name);
        let find = |name: &str| tensors.bytes(name).into();
        write(&path, &plan, &[2], &files(), WeightsOf::Tensors(&find), n_threads, &mut |_, _| {}).expect("is written");
        std::fs::read(path).expect("is read")
    };
    assert!(written("a", 1) == written("b", 4));
}

#[test]
fn other_tools_open_it() {
    let bytes = bytes();
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    assert!(file.tensor("plan.json").is_ok() && file.tensor("kernels/p0.wgsl").is_ok());
    let (found, data_at) = tensors(bytes);
    assert!(data_at.is_multiple_of(16 << 10), "data begins at {data_at}");
    let weights: Vec<_> = found.iter().filter(|(name, _)| name.starts_with("weights/")).collect();
    assert!(weights.len() > 5 && weights[0].1.start.is_multiple_of(16 << 10), "{weights:?}");
    assert!(weights.iter().all(|(_, range)| range.start.is_multiple_of(256)), "{weights:?}");
}

#[test]
fn every_part_is_under_the_hash_tree() {
    let bytes = bytes();
    let (found, data_at) = tensors(bytes);
    assert!(open(bytes).is_ok());
    // Both ends of every tensor, the length, the root, the header's padding.
    let root = bytes.windows(8).position(|text| text == b"\"root\":\"").expect("a root");
    let mut places: Vec<usize> =
        found.iter().filter(|(_, r)| !r.is_empty()).flat_map(|(_, r)| [r.start, r.end - 1]).collect();
    places.extend((0..8).chain([8, 9, 40, root, root + 8, root + 71, data_at - 1, data_at - 2, bytes.len() - 1]));
    for at in places {
        for bit in [0, 5, 7] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << bit;
            assert!(open(&damaged).is_err(), "bit {bit} of byte {at} of {} is not noticed", bytes.len());
        }
    }
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn a_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0u32..8) {
        let mut damaged = bytes().to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= 1 << bit;
        prop_assert!(open(&damaged).is_err(), "bit {bit} of byte {at}");
    }

    #[test]
    fn a_cut_or_longer_file_is_noticed(at in any::<prop::sample::Index>(), more in 1usize..100) {
        let bytes = bytes();
        prop_assert!(open(&bytes[..at.index(bytes.len())]).is_err());
        prop_assert!(open(&[bytes, &vec![0; more][..]].concat()).is_err());
    }

    #[test]
    fn a_signed_lie_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        digits in any::<bool>(),
        in_header in prop::bool::weighted(0.2),
    ) {
        let mut lie = bytes().to_vec();
        let (_, data_at) = tensors(&lie);
        let range = if in_header { 8..data_at } else { range_of(&lie, "plan.json") };
        for (at, byte) in changes {
            let at = range.start + at.index(range.len());
            // Digits for digits leave the JSON whole, so that the plan's own rules are met.
            if !digits || lie[at].is_ascii_digit() {
                lie[at] = if digits { b'0' + byte % 10 } else { byte };
            }
        }
        // Where the header is no longer one, there is nothing to sign.
        any_bytes::sign(&mut lie);
        if let Ok(artifact) = open(&lie) {
            prop_assert!(artifact.plan().verify().is_ok());
            artifact.is_trusted();
        }
    }
}

#[test]
fn other_versions_say_so() {
    let mut other = bytes().to_vec();
    let at = other.windows(13).position(|text| text == b"\"version\":\"3\"").expect("a version");
    other[at + 11] = b'9';
    let error = open(&other).map(drop).expect_err("another version").to_string();
    assert!(error.contains("the artifact has version 9") && error.contains("ingot compile"), "{error}");

    let mut other = bytes().to_vec();
    replace(&mut other, "plan.json", "{\"version\":6", "{\"version\":8");
    sign(&mut other);
    let error = open(&other).map(drop).expect_err("another version").to_string();
    assert!(error.contains("the plan has version 8") && error.contains("ingot compile"), "{error}");
}

#[test]
fn messages_say_what_is_wrong() {
    let bytes = bytes();
    let said = |bytes: &[u8], words: &[&str]| {
        let error = open(bytes).map(drop).expect_err("wrong").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    said(b"", &["model.ingot", "not an Ingot artifact"]);
    said(b"GGUF and so on, long enough to be read", &["not an Ingot artifact", "ingot compile"]);
    said(&bytes[..bytes.len() - 1], &["not as many as its header describes", "copy the file again"]);
    said(&bytes[..5000], &["the header should have"]);
    let flipped = |at: usize| {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        damaged
    };
    said(&flipped(range_of(bytes, "hashes").start), &["the table of hashes is damaged"]);
    said(&flipped(range_of(bytes, "plan.json").start + 50), &["the plan", "damaged"]);
    said(&flipped(range_of(bytes, "weights/b3").start), &["weights/b0", "damaged"]);
    let mut huge = bytes.to_vec();
    huge[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    said(&huge, &["claims 1099511627776 bytes"]);
    let missing = Artifact::open(&PathBuf::from("/nowhere/x.ingot")).map(drop).expect_err("no file").to_string();
    assert!(missing.contains("/nowhere/x.ingot"), "{missing}");
}

#[test]
fn a_kernel_of_others_is_not_trusted() {
    let mut foreign = bytes().to_vec();
    replace(&mut foreign, "kernels/p0.wgsl", "return", "RETURN");
    sign(&mut foreign);
    let artifact = open(&foreign).unwrap_or_else(|error| panic!("{error}"));
    assert!(!artifact.is_trusted());
    assert!(open(bytes()).expect("opens").is_trusted());
}

#[test]
fn a_plan_alone_names_its_weights() {
    let folder = folder();
    let (plan, _) = model(&TargetProfile::vulkan(), AFFINE);
    let weights = folder.path().join("model.safetensors");
    std::fs::write(&weights, [7; 5000]).expect("is written");
    let source = SourceFile { path: weights.clone(), n_bytes: 5000, blake3: hash_file(&weights).expect("is read") };
    let path = folder.path().join("plan.ingot");
    write(&path, &plan, &[], &[], WeightsOf::Sources(vec![source.clone()]), 1, &mut |_, _| {}).expect("is written");
    let artifact = Artifact::open(&path).expect("opens");
    assert_eq!(artifact.manifest().sources, [source]);
    assert!(artifact.check_sources().is_ok() && artifact.verify_weights(1).is_ok());

    let mut changed = vec![7; 5000];
    changed[4999] = 8;
    std::fs::write(&weights, changed).expect("is written");
    assert!(artifact.check_sources().is_ok());
    let error = artifact.verify_weights(1).expect_err("another content").to_string();
    assert!(error.contains("model.safetensors") && error.contains("another content"), "{error}");
    std::fs::write(&weights, [7; 4000]).expect("is written");
    let error = artifact.check_sources().expect_err("shorter").to_string();
    assert!(error.contains("4000 bytes instead of 5000"), "{error}");
    std::fs::remove_file(&weights).expect("is removed");
    assert!(matches!(artifact.check_sources(), Err(ArtifactError::Source { .. })));
    std::fs::create_dir(&weights).expect("is made");
    let error = artifact.verify_weights(1).expect_err("a folder").to_string();
    assert!(error.contains("is no file"), "{error}");
}

#[test]
fn a_failed_write_leaves_nothing() {
    let folder = folder();
    let (plan, tensors) = model(&TargetProfile::vulkan(), AFFINE);
    let find = |name: &str| tensors.bytes(name).into();
    let nowhere = folder.path().join("no such folder/model.ingot");
    let result = write(&nowhere, &plan, &[], &[], WeightsOf::Tensors(&find), 1, &mut |_, _| {});
    assert!(matches!(result, Err(ArtifactError::Io { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).expect("is read").count(), 0);
}
