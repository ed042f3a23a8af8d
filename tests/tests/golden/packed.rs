//! A small Llama as AutoAWQ and AutoGPTQ pack it, against what mlx-lm makes of it. `tests/packed/make.py` made the fixtures.

use super::fixtures::{Expected, check};
use super::support::{devices, load, turn};
use ingot::ConvertOptions;
use ingot_models::formats::checkpoint::Checkpoint;
use ingot_tests::shared::root;
use std::path::{Path, PathBuf};

const FORMS: [&str; 2] = ["awq", "gptq"];

fn folder() -> PathBuf {
    root().join("tests/packed")
}

/// Names of a folder's tensors with the hashes of their bytes.
fn hashes(folder: &Path) -> Vec<(String, String)> {
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    let hash = |name: &str| blake3::hash(checkpoint.get(name).expect("listed").bytes).to_hex().to_string();
    checkpoint.names().map(|name| (name.to_owned(), hash(name))).collect()
}

#[test]
fn codes_scales_and_biases_are_those_of_mlx_lm() {
    let expected = Expected::read(&folder()).json;
    let tensors = expected["tensors"].as_object().expect("hashes by name");
    let mut tensors: Vec<(String, String)> =
        tensors.iter().map(|(name, hash)| (name.clone(), hash.as_str().expect("a hash").to_owned())).collect();
    tensors.sort();
    for form in FORMS {
        let out = tempfile::tempdir().expect("a folder");
        let mlx = out.path().join("mlx");
        ingot::convert(&folder().join(form), &mlx, &ConvertOptions::default(), &mut |_, _| true)
            .unwrap_or_else(|error| panic!("{form}: {error}"));
        let mut found = hashes(&mlx);
        found.sort();
        assert_eq!(found, tensors, "{form}");
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(mlx.join("config.json")).expect("a file")).expect("JSON");
        let mut quantization = config["quantization"].clone();
        // mlx-lm leaves out what is the default.
        assert_eq!(quantization.as_object_mut().and_then(|map| map.remove("mode")), Some("affine".into()), "{form}");
        assert_eq!(quantization, expected["quantization"], "{form}");
    }
}

#[test]
fn logits_and_ids_are_those_of_mlx_lm() {
    let expected = Expected::read(&folder());
    for form in FORMS {
        for device in devices().into_iter().filter(|device| !device.is_software) {
            let _turn = turn(&device);
            let mut model = load(&folder().join(form), &device, |_| {});
            check(form, &expected, &mut model, &device);
        }
    }
}
