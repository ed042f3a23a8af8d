//! Conversion, against checkpoints that mlx-lm wrote.

use crate::{assert_error, golden, read_json};
use ingot_models::Model;
use ingot_models::config::Quant;
use ingot_models::convert::search::{Candidates, Sensitivities, Target, Widths};
use ingot_models::convert::{ConvertOptions, Recipe, convert};
use ingot_models::formats::checkpoint::Checkpoint;
use ingot_models::formats::safetensors::StoredType;
use ingot_models::weights::Matrix;
use std::path::Path;

fn recipe(mode: &str, bits: Option<u32>, group: Option<u32>) -> Recipe {
    Recipe::new(mode, bits, group, None).expect("a recipe")
}

fn to(source: &Path, out: &Path, options: ConvertOptions) -> Checkpoint {
    let mut told = Vec::new();
    let converted = convert(source, out, &options, &mut |done, total| {
        told.push((done, total));
        true
    })
    .unwrap_or_else(|error| panic!("{error}"));
    assert!(told.is_sorted() && told.last() == Some(&(converted.n_bytes, converted.n_bytes)), "{told:?}");
    Checkpoint::open(out).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn assert_same(found: &Checkpoint, expected: &Checkpoint) {
    assert_eq!(found.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>());
    for name in expected.names() {
        let (found, expected) = (found.get(name).expect("listed"), expected.get(name).expect("listed"));
        assert_eq!((found.stored, found.shape), (expected.stored, expected.shape), "{name}");
        assert!(found.bytes == expected.bytes, "{name} has other bytes");
    }
}

#[test]
fn folders_are_byte_for_byte_those_of_mlx_lm() {
    let Some(source) = golden("llama") else { return };
    let cases = [
        ("llama_affine_b2_g32", recipe("affine", Some(2), Some(32)), StoredType::Bf16),
        ("llama_affine_b3_g64", recipe("affine", Some(3), None), StoredType::Bf16),
        ("llama_affine_b4_g32", recipe("affine", None, Some(32)), StoredType::Bf16),
        ("llama_affine_b4_g64", recipe("affine", None, None), StoredType::Bf16),
        ("llama_affine_b4_g64_f16", recipe("affine", None, None), StoredType::F16),
        ("llama_affine_b6_g64", recipe("affine", Some(6), None), StoredType::Bf16),
        ("llama_affine_b8_g64", recipe("affine", Some(8), None), StoredType::Bf16),
        ("llama_mxfp4", recipe("mxfp4", None, None), StoredType::Bf16),
        ("llama_mxfp8", recipe("mxfp8", None, None), StoredType::Bf16),
        ("llama_nvfp4", recipe("nvfp4", None, None), StoredType::Bf16),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    for (name, quantize, dtype) in cases {
        let Some(expected) = golden(&format!("mlx/{name}")) else { continue };
        let out = folder.path().join(name);
        let options = ConvertOptions { quantize: Some(quantize), dtype: Some(dtype), ..ConvertOptions::default() };
        let found = to(&source, &out, options);
        assert_same(&found, &Checkpoint::open(&expected).expect("a golden checkpoint"));
        let (mut found, mut expected) = (read_json(&out.join("config.json")), read_json(&expected.join("config.json")));
        // The fixture's configuration was changed to the new type, which mlx-lm does not do.
        for config in [&mut found, &mut expected] {
            config.as_object_mut().expect("an object").remove("torch_dtype");
        }
        assert_eq!(found, expected, "{name}");
        let index = read_json(&out.join("model.safetensors.index.json"));
        assert_eq!(index["weight_map"]["lm_head.scales"], "model.safetensors");
    }
}

/// Experts become stacks, and the router has more bits.
#[test]
fn experts_are_stacked_byte_for_byte_as_by_mlx_lm() {
    let (Some(source), Some(expected)) = (golden("qwen3_moe"), golden("mlx/qwen3_moe_affine_b4_g64")) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (out, again) = (folder.path().join("out"), folder.path().join("again"));
    let quantize = Some(recipe("affine", None, None));
    let found = to(&source, &out, ConvertOptions { quantize, ..ConvertOptions::default() });
    let expected_tensors = Checkpoint::open(&expected).expect("a golden checkpoint");
    assert_same(&found, &expected_tensors);
    assert_eq!(read_json(&out.join("config.json")), read_json(&expected.join("config.json")));
    // Stacks stay what they are.
    assert_same(&to(&out, &again, ConvertOptions::default()), &expected_tensors);
}

/// Experts that are not quantized are stacked too; families without a rule for routers quantize them as the rest.
#[test]
fn experts_are_stacked_as_floats() {
    let Some(source) = golden("mixtral") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (plain, coded) = (folder.path().join("plain"), folder.path().join("coded"));
    let found = to(&source, &plain, ConvertOptions::default());
    let before = Checkpoint::open(&source).expect("a golden checkpoint");
    for (part, single) in [("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")] {
        let stack = found.get(&format!("model.layers.1.block_sparse_moe.switch_mlp.{part}.weight")).expect("a stack");
        assert_eq!((stack.shape[0], stack.stored), (4, StoredType::Bf16));
        let bytes: Vec<u8> = (0..4)
            .flat_map(|expert| {
                let name = format!("model.layers.1.block_sparse_moe.experts.{expert}.{single}.weight");
                before.get(&name).expect("an expert").bytes.to_vec()
            })
            .collect();
        assert!(stack.bytes == bytes, "{part}");
    }
    let quantize = Some(recipe("mxfp4", None, None));
    to(&plain, &coded, ConvertOptions { quantize, ..ConvertOptions::default() });
    let model = Model::open(&coded).expect("a checkpoint");
    let router = model.weights().matrix("model.layers.0.block_sparse_moe.gate", 4, 64).expect("a router");
    let stack =
        model.weights().matrix("model.layers.0.block_sparse_moe.switch_mlp.up_proj", 4 * 128, 64).expect("a stack");
    assert_eq!((router.format().to_string(), stack.format().to_string()), ("mxfp4".into(), "mxfp4".into()));
    model.graph().expect("a graph");
}

#[test]
fn mixed_recipes_are_recorded_by_layer() {
    let Some(source) = golden("llama") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("mixed");
    let quantize = Recipe::new("affine", None, None, Some("mixed_3_6")).expect("a recipe");
    to(&source, &out, ConvertOptions { quantize: Some(quantize), ..ConvertOptions::default() });
    let config = read_json(&out.join("config.json"));
    let bits = |path: &str| config["quantization"][path]["bits"].as_u64();
    assert_eq!(config["quantization"], config["quantization_config"]);
    // mlx-lm records the group that it was asked for, here none.
    assert_eq!((&config["quantization"]["group_size"], &config["quantization"]["bits"]), (&64.into(), &4.into()));
    let expected = serde_json::json!({ "group_size": null, "bits": 6, "mode": "affine" });
    assert_eq!(config["quantization"]["lm_head"], expected);
    assert_eq!((bits("lm_head"), bits("model.layers.1.mlp.down_proj")), (Some(6), Some(6)));
    assert_eq!((bits("model.embed_tokens"), bits("model.layers.1.self_attn.q_proj")), (Some(3), Some(3)));
    let model = Model::open(&out).expect("a checkpoint");
    let Ok(Matrix::Affine(view)) = model.weights().matrix("lm_head", 320, 128) else { panic!("not affine") };
    assert_eq!((view.shape.bits, view.shape.group), (6, 64));
}

/// As mlx-lm's `load_config` and `convert` read a folder.
#[test]
fn configurations_take_what_other_files_and_parts_say() {
    let Some(source) = golden("llama") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("source");
    std::fs::create_dir(&own).expect("a folder");
    std::fs::copy(source.join("model.safetensors"), own.join("model.safetensors")).expect("a copy");
    let mut config = read_json(&source.join("config.json"));
    config["eos_token_id"] = 2.into();
    config["torch_dtype"] = serde_json::Value::Null;
    config["text_config"] = serde_json::json!({ "dtype": "float16" });
    // A folder of MLX that was made of one of AWQ's: its own settings tell what it is.
    config["quantization"] = serde_json::json!({ "group_size": 64, "bits": 4 });
    config["quantization_config"] = serde_json::json!({ "quant_method": "awq", "bits": 4 });
    std::fs::write(own.join("config.json"), config.to_string()).expect("written");
    for (name, generation, eos) in [("list", "[2, 3]", "[2,3]"), ("none", "0", "2")] {
        std::fs::write(own.join("generation_config.json"), format!("{{\"eos_token_id\": {generation}}}"))
            .expect("written");
        let out = folder.path().join(name);
        let found = to(&own, &out, ConvertOptions::default());
        assert_eq!(found.get("model.norm.weight").map(|norm| norm.stored), Some(StoredType::F16));
        let config = read_json(&out.join("config.json"));
        assert_eq!(config["eos_token_id"].to_string(), eos);
        assert_eq!((&config["quantization"]["bits"], &config["quantization_config"]["bits"]), (&4.into(), &4.into()));
        assert!(config["quantization_config"].get("quant_method").is_none());
    }
}

#[test]
fn searched_widths_are_recorded_where_they_differ() {
    // Of the second, a layer's experts are one matrix.
    for name in ["llama", "qwen3_moe"] {
        let Some(source) = golden(name) else { continue };
        assert_searched_widths_are_recorded(&source);
    }
}

fn assert_searched_widths_are_recorded(source: &Path) {
    let widths = Widths::new(3, 6, 32).expect("widths");
    let mut told = Vec::new();
    let candidates =
        Candidates::measure(source, widths, &mut |done, total| told.push((done, total))).expect("measured");
    assert!(told.is_sorted() && told.last().is_some_and(|(done, total)| done == total), "{told:?}");
    let of = |path: &str| if path == "lm_head" { 1e6 } else { 1.0 };
    let sensitivities: Sensitivities = candidates.matrices.iter().map(|m| (m.path.clone(), of(&m.path))).collect();
    let quantize = candidates.recipe(&sensitivities, Target::BitsPerWeight(6.0)).expect("a recipe");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("searched");
    let options = ConvertOptions { quantize: Some(quantize), ..ConvertOptions::default() };
    let converted = convert(source, &out, &options, &mut |_, _| true).unwrap_or_else(|error| panic!("{error}"));
    let bits = converted.bits_per_weight();
    assert!((5.7..=6.0).contains(&bits), "{bits}");

    let config = read_json(&out.join("config.json"));
    assert_eq!(
        (config["quantization"]["bits"].as_u64(), config["quantization"]["group_size"].as_u64()),
        (Some(3), Some(32))
    );
    assert_eq!(config["quantization"]["lm_head"]["bits"], 6);
    let model = Model::open(&out).expect("a checkpoint");
    let mut found = Vec::new();
    for matrix in &candidates.matrices {
        let [n_rows, n_cols] = matrix.shape;
        let Ok(Matrix::Affine(view)) = model.weights().matrix(&matrix.path, n_rows, n_cols) else {
            panic!("not affine")
        };
        let told = config["quantization"].get(&matrix.path).map_or(3, |quant| quant["bits"].as_u64().expect("bits"));
        assert_eq!(u64::from(view.shape.bits), told, "{}", matrix.path);
        assert_eq!(config["quantization"].get(&matrix.path).is_some(), view.shape.bits != 3, "{}", matrix.path);
        found.push(view.shape.bits);
    }
    assert!(found.contains(&3) || found.contains(&4), "nothing is left narrow: {found:?}");
    assert_error(Candidates::measure(&out, widths, &mut |_, _| {}), &["searched", "no matrix of floats"]);
}

#[test]
fn dequantized_checkpoints_hold_the_same_numbers() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["llama_affine_b4_g64", "llama_affine_mixed", "llama_mxfp8", "llama_nvfp4"] {
        let Some(source) = golden(&format!("mlx/{name}")) else { continue };
        let (plain, again) = (folder.path().join(name), folder.path().join(format!("{name}-again")));
        let dtype = Some(StoredType::F32);
        to(&source, &plain, ConvertOptions { dequantize: true, dtype, ..ConvertOptions::default() });
        assert!(read_json(&plain.join("config.json")).get("quantization").is_none());
        let (before, after) = (Model::open(&source).expect("opens"), Model::open(&plain).expect("opens"));
        for (path, n_rows) in [("lm_head", 320), ("model.layers.1.self_attn.v_proj", 64)] {
            let (before, after) =
                (before.weights().matrix(path, n_rows, 128), after.weights().matrix(path, n_rows, 128));
            let (before, after) = (before.expect("a matrix"), after.expect("a matrix"));
            assert_eq!(after.format(), ingot_ir::weight::Format::F32);
            let (mut a, mut b) = (vec![0.0; 128], vec![0.0; 128]);
            for row in 0..n_rows {
                before.read_row(row, &mut a);
                after.read_row(row, &mut b);
                assert_eq!(a, b, "{name}: {path}, row {row}");
            }
        }
        // Small floats are their own nearest small floats, so no number changes on the way back.
        if name == "llama_mxfp8" {
            let quantize = Some(recipe("mxfp8", None, None));
            to(&plain, &again, ConvertOptions { quantize, ..ConvertOptions::default() });
            let (before, after) = (Model::open(&source).expect("opens"), Model::open(&again).expect("opens"));
            let matrix = |model: &Model| match model.weights().matrix("lm_head", 320, 128) {
                Ok(Matrix::SmallFloat(view)) => view.dequantize(),
                other => panic!("no small floats: {other:?}"),
            };
            assert_eq!(matrix(&before), matrix(&after));
        }
    }
}

/// What is quantized already stays as it is, and is told apart from what is new.
#[test]
fn quantized_modules_stay() {
    let Some(source) = golden("mlx/llama_affine_mixed") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let options = ConvertOptions { quantize: Some(recipe("mxfp4", None, None)), ..ConvertOptions::default() };
    let (found, before) = (to(&source, &out, options), Checkpoint::open(&source).expect("opens"));
    let name = "model.layers.1.mlp.up_proj.weight";
    assert_eq!(found.get(name).expect("there").bytes, before.get(name).expect("there").bytes);
    let config = read_json(&out.join("config.json"));
    assert_eq!(config["quantization"]["lm_head"]["mode"], "mxfp4");
    assert_eq!(config["quantization"]["mode"], "affine");
    let model = Model::open(&out).expect("a checkpoint");
    let head = model.weights().matrix("lm_head", 320, 128).expect("a matrix");
    assert_eq!(head.format().to_string(), "mxfp4");
    let map = model.spec.quantization.expect("settings");
    assert_eq!(map.default.bits(), 4);
    assert!(matches!(map.default, Quant::Affine(_)));
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_half() {
    let Some(source) = golden("llama") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    std::fs::create_dir(&out).expect("a folder");
    let options = ConvertOptions::default();
    let run = |source: &Path, options: &ConvertOptions| convert(source, &out, options, &mut |_, _| true);
    assert_error(run(&source, &options), &["out", "exists already"]);
    std::fs::remove_dir(&out).expect("removed");
    let both = ConvertOptions { dequantize: true, ..options.clone() };
    let both = ConvertOptions { quantize: Some(recipe("affine", None, None)), ..both };
    assert_error(run(&source, &both), &["not both"]);
    // A source that lacks a tensor.
    let broken = folder.path().join("broken");
    std::fs::create_dir(&broken).expect("a folder");
    std::fs::copy(source.join("config.json"), broken.join("config.json")).expect("a copy");
    assert_error(run(&broken, &options), &["no model*.safetensors"]);
    // A place where no folder can be made.
    let nowhere = folder.path().join("broken/config.json/out");
    assert!(convert(&source, &nowhere, &options, &mut |_, _| true).is_err());
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("readable").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["broken"]);
}
