//! Prompts in files: what was read on one device goes on on another, and nothing else is taken.

use ingot::compiler::TargetProfile;
use ingot::ir::kv::KvType;
use ingot::{CompileOptions, DeviceChoice, Error, GenerateOptions, LoadOptions, Model};
use ingot_compiler::artifact::Artifact;
use ingot_tests::rig::{Device, devices, turn};
use ingot_tests::shared::root;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::path::{Path, PathBuf};

fn load(name: &str, device: &Device, kv_type: Option<KvType>, max_kv_size: Option<u32>) -> Model {
    let choice = match device {
        Device::Cpu => DeviceChoice::Cpu,
        Device::Gpu(gpu) => DeviceChoice::Named(gpu.info().name.clone()),
    };
    let options = LoadOptions {
        device: choice,
        context: Some(256),
        cache: ingot::Cache::Off,
        kv_type,
        max_kv_size,
        ..LoadOptions::default()
    };
    Model::load(&root().join("models").join(name), options).expect("the model loads")
}

fn beginning(model: &Model) -> Vec<u32> {
    let text =
        "Once upon a time there was a small dragon who lived on a green hill and loved nothing more than pizza. ";
    model.text_prompt(&text.repeat(2)).expect("ids")
}

fn go_on(model: &mut Model, prompt: &[u32]) -> (Vec<u32>, usize) {
    let rest = model.tokenizer().expect("a tokenizer").encode("One day", false).expect("ids");
    let options = GenerateOptions { max_tokens: 8, ignore_eos: true, ..GenerateOptions::default() };
    let answer = model.generate(&[prompt, &rest].concat(), &options, |_| true).expect("an answer");
    (answer.ids, answer.stats.n_cached)
}

fn path(folder: &Path) -> PathBuf {
    folder.join("prompt.safetensors")
}

#[test]
fn what_was_read_goes_on_where_it_is_loaded() {
    let codes = |bits| Some(KvType::Affine { bits, group: 32 });
    let folder = tempfile::tempdir().expect("a folder");
    let cpu = || vec![Device::Cpu];
    let _turns: Vec<_> = devices().iter().filter_map(turn).collect();
    for (kv_type, max_kv_size, places) in [
        (Some(KvType::F32), None, devices()),
        (Some(KvType::F16), None, cpu()),
        (codes(8), None, cpu()),
        (codes(4), Some(16), devices()),
        (Some(KvType::F32), Some(16), cpu()),
    ] {
        let mut whole = load("ingot-tales-1m", &Device::Cpu, kv_type, max_kv_size);
        let prompt = beginning(&whole);
        let expected = go_on(&mut whole, &prompt).0;
        // Written on one device and read on the other: keys are in the model's order, whatever kernels make of it.
        for writer in &places {
            let mut model = load("ingot-tales-1m", writer, kv_type, max_kv_size);
            model.save_prompt(&prompt, &path(folder.path())).expect("it is written");
            for reader in &places {
                let mut model = load("ingot-tales-1m", reader, kv_type, max_kv_size);
                let loaded = model.load_prompt(&path(folder.path())).expect("it is read");
                assert_eq!(loaded, prompt);
                let (ids, n_cached) = go_on(&mut model, &prompt);
                let what = format!("{kv_type:?} under {max_kv_size:?}, {writer:?} to {reader:?}");
                assert_eq!(n_cached, prompt.len(), "{what}");
                assert_eq!(ids, expected, "{what}");
            }
        }
    }
}

/// A folder, artifacts of it and plans of it are one model.
#[test]
fn a_file_serves_the_model_in_whatever_form() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = root().join("models/ingot-tales-1m");
    let compiled = |target: TargetProfile, plan_only: bool| {
        let path = folder.path().join(format!("{}-{plan_only}.ingot", target.name));
        let options = CompileOptions { context: Some(256), plan_only, ..CompileOptions::new(target) };
        ingot::compile(&model, &path, options).expect("is compiled");
        path
    };
    let options = || LoadOptions { device: DeviceChoice::Cpu, context: Some(256), ..LoadOptions::default() };
    let mut forms = [model.clone(), compiled(TargetProfile::cpu(), false), compiled(TargetProfile::cpu(), true)]
        .map(|path| Model::load(&path, options()).expect("the model loads"));
    let prompt = beginning(&forms[0]);
    for writer in 0..forms.len() {
        let file = folder.path().join(format!("{writer}.safetensors"));
        forms[writer].save_prompt(&prompt, &file).expect("it is written");
        assert_eq!(ingot::prompt_origin(&file).ok().as_deref(), forms[writer].origin());
        for reader in &mut forms {
            assert_eq!(reader.load_prompt(&file).expect("it is read"), prompt);
        }
    }
    // Of a GPU's artifact the file's name for the model is known without the GPU.
    let fingerprint = |target: TargetProfile| {
        let artifact = Artifact::open(&compiled(target, false)).expect("it opens");
        artifact.manifest().fingerprint.clone().expect("it has weights")
    };
    let of_cpu = fingerprint(TargetProfile::cpu());
    for target in [TargetProfile::vulkan(), TargetProfile::apple()] {
        assert_eq!(fingerprint(target), of_cpu);
    }
}

#[test]
fn files_of_others_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = path(folder.path());
    let mut model = load("ingot-tales-1m", &Device::Cpu, None, None);
    let prompt = beginning(&model);
    model.save_prompt(&prompt, &file).expect("it is written");
    let refuses = |model: &mut Model, part: &str| {
        let error = model.load_prompt(&file).expect_err("it is another's");
        assert!(matches!(error, Error::OtherPromptCache { .. } | Error::Runtime(_)), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(part), "`{message}` does not say `{part}`");
        // Nothing of it is in the cache, and no page is lost.
        assert_eq!(go_on(model, &prompt).1, 0);
    };
    let own = root().join("models/ingot-tales-1m");
    let advice = format!("load that one (--model {})", own.display());
    let other = || load("ingot-tales-14m", &Device::Cpu, None, None);
    refuses(&mut other(), &advice);
    refuses(&mut other(), &format!("this is {}", root().join("models/ingot-tales-14m").display()));
    // Another model that stands where the file's stood.
    let mut moved = other();
    moved.set_origin(own);
    refuses(&mut moved, "were others when it was written");
    refuses(&mut load("ingot-tales-1m", &Device::Cpu, Some(KvType::F16), None), "--kv-dtype");
    refuses(&mut load("ingot-tales-1m", &Device::Cpu, None, Some(16)), "--max-kv-size");
    let whole = std::fs::read(&file).expect("the file");
    for (from, to, part) in [
        ("ingot-prompt-cache", "ingot-prompt-cashe", "cache-prompt"),
        ("layers.1.keys", "layers.9.keys", "layers.1.keys"),
        ("\"tokens\"", "\"tokans\"", "tokens"),
    ] {
        let found = whole.windows(from.len()).position(|bytes| bytes == from.as_bytes());
        let at = found.expect("it is in the header");
        let mut changed = whole.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&file, changed).expect("it is written");
        refuses(&mut load("ingot-tales-1m", &Device::Cpu, None, None), part);
    }
    let tensors = SafeTensors::deserialize(&whole).expect("a safetensors file");
    let metadata = SafeTensors::read_metadata(&whole).expect("a header").1.metadata().clone();
    let without = tensors.tensors().into_iter().map(|(name, tensor)| match name.as_str() {
        "tokens" => (name, TensorView::new(tensor.dtype(), vec![0], &[]).expect("an empty tensor")),
        _ => (name, tensor),
    });
    let bytes = safetensors::serialize(without, metadata).expect("a file");
    std::fs::write(&file, bytes).expect("it is written");
    refuses(&mut load("ingot-tales-1m", &Device::Cpu, None, None), "of no token");
    std::fs::write(&file, &whole[..whole.len() - 8]).expect("it is written");
    assert!(model.load_prompt(&file).is_err(), "cut short");
    std::fs::remove_file(&file).expect("it was there");
    assert!(model.load_prompt(&file).is_err(), "not there");
}
