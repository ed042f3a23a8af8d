//! Artifacts and kept plans, loaded and run: the same text as from the checkpoint's folder.

use ingot::compiler::TargetProfile;
use ingot::compiler::artifact::Artifact;
use ingot::compiler::target::{CoopScalar, CoopShape};
use ingot::{Cache, CompileOptions, DeviceChoice, DeviceInfo, GenerateOptions, LoadOptions, Model, Tiles, compile};
use ingot_runtime::gpu::{CooperativeShape, DeviceKind};
use ingot_tests::rig::{gpus, turn};
use ingot_tests::shared::{root, shared, skip};
use std::path::{Path, PathBuf};

pub(crate) fn checkpoint() -> PathBuf {
    root().join("models/ingot-tales-1m")
}

pub(crate) fn options(device: &DeviceChoice) -> LoadOptions {
    LoadOptions { device: device.clone(), cache: Cache::Off, ..LoadOptions::default() }
}

pub(crate) fn greedy(path: &Path, options: LoadOptions) -> Vec<u32> {
    let mut model = Model::load(path, options).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let prompt = model.chat_prompt("Tell me a story about a cat.").expect("it has a tokenizer");
    let options = GenerateOptions { max_tokens: 12, ..GenerateOptions::default() };
    model.generate(&prompt, &options, |_| true).expect("generates").ids
}

fn write(out: &Path, target: TargetProfile, plan_only: bool) {
    write_of(&checkpoint(), out, target, plan_only);
}

fn write_of(model: &Path, out: &Path, target: TargetProfile, plan_only: bool) {
    let options = CompileOptions { context: Some(256), plan_only, n_threads: Some(2), ..CompileOptions::new(target) };
    compile(model, out, options).unwrap_or_else(|error| panic!("{error}"));
}

/// The processor, and the adapter of the tests.
pub(crate) fn devices() -> Vec<DeviceChoice> {
    let name = gpus().first().and_then(|_| {
        let infos = ingot::devices().into_iter().filter_map(|device| match device {
            DeviceInfo::Gpu(info) => Some(info),
            DeviceInfo::Cpu { .. } => None,
        });
        infos.min_by_key(|info| info.kind == ingot::runtime::gpu::DeviceKind::Cpu).map(|info| info.name)
    });
    std::iter::once(DeviceChoice::Cpu).chain(name.map(DeviceChoice::Named)).collect()
}

#[test]
fn an_artifact_runs_as_its_checkpoint_does() {
    let folder = tempfile::tempdir().expect("there is room");
    for device in devices() {
        let _turn = gpus().first().and_then(turn);
        let expected = greedy(&checkpoint(), options(&device));
        assert_eq!(expected.len(), 12);
        for plan_only in [false, true] {
            let path = folder.path().join("model.ingot");
            write(&path, ingot::target(&device).expect("it opens"), plan_only);
            assert_eq!(greedy(&path, options(&device)), expected, "{device:?}, plan only: {plan_only}");
            let unverified = LoadOptions { skip_verification: true, context: Some(64), ..options(&device) };
            assert_eq!(greedy(&path, unverified), expected, "{device:?}, plan only: {plan_only}");
        }
    }
}

/// Rows of a GGUF file are made while they are written or, where the file is only named, while they are loaded.
#[test]
fn a_gguf_file_is_compiled_as_its_folder_would_be() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("model.ingot");
    for name in ["llama-q4_0.gguf", "llama-f16.gguf", "llama256-q4_k_m.gguf"] {
        let Some(file) = shared(&format!("golden/gguf/{name}")) else { continue };
        // One of them is enough for a software rasterizer.
        let all = devices().into_iter().take(if name.contains("q4_k_m") { 2 } else { 1 });
        for device in all {
            let _turn = gpus().first().and_then(turn);
            let expected = greedy(&file, options(&device));
            for plan_only in [false, true] {
                write_of(&file, &path, ingot::target(&device).expect("it opens"), plan_only);
                assert_eq!(greedy(&path, options(&device)), expected, "{name}, {device:?}, plan only: {plan_only}");
            }
        }
    }
    let copy = folder.path().join("model.gguf");
    let Some(file) = shared("golden/gguf/llama-q4_0.gguf") else { return };
    std::fs::copy(file, &copy).expect("is copied");
    write_of(&copy, &path, TargetProfile::cpu(), true);
    let mut bytes = std::fs::read(&copy).expect("is read");
    *bytes.last_mut().expect("is not empty") ^= 1;
    std::fs::write(&copy, &bytes).expect("is written");
    let error = Model::load(&path, options(&DeviceChoice::Cpu)).map(drop).expect_err("must fail").to_string();
    assert!(error.contains("model.gguf") && error.contains("another content"), "{error}");
}

#[test]
fn a_kernel_that_is_not_ours_still_runs_with_its_checks() {
    let Some(device) = devices().into_iter().nth(1) else { return };
    let _turn = gpus().first().and_then(turn);
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("model.ingot");
    write(&path, ingot::target(&device).expect("it opens"), false);
    let expected = greedy(&path, options(&device));
    // A comment changes no result, but makes the text another's.
    let artifact = Artifact::open(&path).expect("opens");
    let (mut plan, files) = (artifact.plan().clone(), artifact.files().map(|(n, b)| (n.to_owned(), b.to_vec())));
    for id in plan.kernels.ids() {
        plan.kernels[id].wgsl += "// another's\n";
    }
    let opened = ingot_models::Model::open(&checkpoint()).expect("opens");
    let bytes = |name: &str| {
        let part = |ending: &str| opened.checkpoint.get(&format!("{name}{ending}")).map(|tensor| tensor.bytes);
        let (scales, biases) = (part(".scales").unwrap_or(&[]), part(".biases").unwrap_or(&[]));
        let values = part("").or_else(|| part(".weight")).unwrap_or_else(|| panic!("no {name}"));
        ingot_compiler::repack::TensorBytes { values, scales, biases, global: &[] }.into()
    };
    let foreign = folder.path().join("foreign.ingot");
    let weights = ingot_compiler::artifact::WeightsOf::Tensors(&bytes);
    let (eos, files) = (&artifact.manifest().eos_ids, files.collect::<Vec<_>>());
    ingot_compiler::artifact::write(&foreign, &plan, eos, &files, weights, 1, &mut |_, _| {}).expect("is written");
    assert!(!Artifact::open(&foreign).expect("opens").is_trusted());
    assert_eq!(greedy(&foreign, options(&device)), expected);
}

#[test]
fn what_an_artifact_cannot_do_is_said() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("model.ingot");
    let failed = |options: LoadOptions| Model::load(&path, options).map(drop).expect_err("must fail").to_string();
    let said = |options: LoadOptions, words: &[&str]| {
        let error = failed(options);
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    write(&path, TargetProfile::cpu(), false);
    let longer = LoadOptions { context: Some(1024), ..options(&DeviceChoice::Cpu) };
    said(longer, &["compiled for 256 tokens", "--context 1024"]);
    let none = LoadOptions { context: Some(0), ..options(&DeviceChoice::Cpu) };
    said(none, &["--context is 0", "1 to 256"]);
    let two = LoadOptions { max_batch: 2, ..options(&DeviceChoice::Cpu) };
    said(two, &["--max-batch is 2", "compiled for 1"]);
    let tiles = LoadOptions { tiles: Tiles::BuiltIn, ..options(&DeviceChoice::Cpu) };
    said(tiles, &["kernels of an artifact are fixed", "--tiles"]);
    let adjusted = LoadOptions { adjust_target: Some(Box::new(|_| ())), ..options(&DeviceChoice::Cpu) };
    said(adjusted, &["kernels of an artifact are fixed"]);
    // A shorter context than compiled is that much less memory, and longer prompts are refused.
    let mut short =
        Model::load(&path, LoadOptions { context: Some(32), ..options(&DeviceChoice::Cpu) }).expect("loads");
    let error = short.generate(&[5; 40], &GenerateOptions::default(), |_| true).expect_err("too long").to_string();
    assert!(error.contains("40 tokens") && error.contains("holds 32"), "{error}");
    assert!(!short.generate(&[5; 4], &GenerateOptions::default(), |_| true).expect("generates").ids.is_empty());
    if let Some(device) = devices().into_iter().nth(1) {
        said(options(&device), &["compiled for target `cpu`", "--target this"]);
    }
    write(&path, TargetProfile::apple(), false);
    said(options(&DeviceChoice::Cpu), &["compiled for target `apple`", "--target cpu"]);
    if let Some(device) = devices().into_iter().nth(1) {
        said(options(&device), &["compiled for target `apple`", "--target this"]);
    }
    // Matrix units with subgroups that no adapter of this size has.
    if let Some(device) = devices().into_iter().nth(1) {
        let mut target = ingot::target(&device).expect("it opens");
        target.limits.subgroup = Some((64, 64));
        target.limits.cooperative = vec![CoopShape::square(8, CoopScalar::F16, CoopScalar::F32)];
        write(&path, target, false);
        said(options(&device), &["compiled for target", "--target this"]);
    }

    // A checkpoint that changed after its plan was compiled.
    let copy = folder.path().join("checkpoint");
    std::fs::create_dir(&copy).expect("is made");
    for entry in std::fs::read_dir(checkpoint()).expect("is there").flatten() {
        std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("is copied");
    }
    let compile_options = CompileOptions { plan_only: true, ..CompileOptions::new(TargetProfile::cpu()) };
    compile(&copy, &path, compile_options).expect("compiles");
    let weights = copy.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("is read");
    *bytes.last_mut().expect("is not empty") ^= 1;
    std::fs::write(&weights, &bytes).expect("is written");
    said(options(&DeviceChoice::Cpu), &["model.safetensors", "another content"]);
    std::fs::remove_file(&weights).expect("is removed");
    said(options(&DeviceChoice::Cpu), &["model.safetensors", "cannot be read"]);
}

#[test]
fn a_kept_plan_is_the_plan() {
    let folder = tempfile::tempdir().expect("there is room");
    for device in devices() {
        let _turn = gpus().first().and_then(turn);
        let cache = Cache::Folder(folder.path().join("cache"));
        cache.clear().expect("is cleared");
        let cached = || LoadOptions { cache: cache.clone(), context: Some(256), ..options(&device) };
        let expected = greedy(&checkpoint(), LoadOptions { context: Some(256), ..options(&device) });
        assert_eq!(greedy(&checkpoint(), cached()), expected);
        let plans = || {
            cache.entries().expect("is read").into_iter().filter(|e| e.what.starts_with("plan of")).collect::<Vec<_>>()
        };
        let kept = plans();
        assert_eq!(kept.len(), 1, "{kept:?}");
        // Another context is another plan; the same one is not written again.
        assert_eq!(greedy(&checkpoint(), cached()), expected);
        assert_eq!(plans(), kept);
        greedy(&checkpoint(), LoadOptions { context: Some(128), ..cached() });
        assert_eq!(plans().len(), 2);
        // Damage is as good as absence.
        for entry in cache.entries().expect("is read") {
            let mut bytes = std::fs::read(&entry.path).expect("is read");
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            std::fs::write(&entry.path, bytes).expect("is written");
        }
        assert_eq!(plans().len(), 0);
        assert_eq!(greedy(&checkpoint(), cached()), expected);
        assert_eq!(plans().len(), 1);
        assert!(cache.clear().expect("is cleared") > 0);
        assert!(cache.entries().expect("is read").is_empty());
    }
}

/// wgpu tells subgroups of 4 to 64 lanes of every Metal device; Apple's, which have matrices, have 32.
#[test]
fn apples_devices_have_matrix_units() {
    let infos = ingot::devices().into_iter().filter_map(|device| match device {
        DeviceInfo::Gpu(info) => Some(info),
        DeviceInfo::Cpu { .. } => None,
    });
    let Some(mut info) = infos.into_iter().next() else {
        skip("no adapter, so none was made one of Apple's");
        return;
    };
    let half = |c: &str| CooperativeShape { m: 8, n: 8, k: 8, ab: "F16".into(), c: c.into() };
    (info.backend, info.kind, info.subgroup, info.f16) = ("metal".into(), DeviceKind::Integrated, Some((4, 64)), true);
    info.cooperative_matrix = vec![half("F16"), half("F32")];
    let target = ingot::target_of(&info);
    assert_eq!((target.name.as_str(), target.limits.subgroup), ("apple", Some((32, 32))));
    assert!(target.has_matrix_units() && target.attention_units(128).is_some());
    info.cooperative_matrix.clear();
    let target = ingot::target_of(&info);
    assert_eq!((target.limits.subgroup, target.has_matrix_units()), (Some((4, 64)), false));
}
