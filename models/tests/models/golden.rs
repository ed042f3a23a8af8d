//! Configurations, codecs and lowering against the golden checkpoints.

use crate::{assert_error, config, golden, read_json};
use ingot_ir::graph::Op;
use ingot_ir::weight::{Format, ScaleType};
use ingot_models::Model;
use ingot_models::config::{ModelSpec, RopeScaling};
use ingot_models::formats::affine::{AffineMatrix, AffineView, QuantShape};
use ingot_models::formats::checkpoint::Checkpoint;
use ingot_models::formats::safetensors::{Safetensors, StoredType, TensorDecl, write};
use ingot_models::formats::small_float::{SmallFloat, SmallFloatMatrix, SmallFloatView};
use ingot_models::weights::{Loaded, Matrix, WeightTable};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

const CHECKPOINTS: [&str; 17] = [
    "llama",
    "llama_tied",
    "llama_rope_linear",
    "llama_rope_llama3",
    "llama_sharded",
    "mistral",
    "qwen2",
    "qwen2_tied",
    "qwen2_rope_yarn",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3_text_scaled",
    "granite",
    "mixtral",
    "qwen3_moe",
];
const MLX_CHECKPOINTS: [&str; 13] = [
    "llama_affine_b2_g32",
    "llama_affine_b3_g64",
    "llama_affine_b4_g32",
    "llama_affine_b4_g64",
    "llama_affine_b4_g64_f16",
    "llama_affine_b6_g64",
    "llama_affine_b8_g64",
    "llama_mxfp4",
    "llama_mxfp8",
    "llama_nvfp4",
    "qwen2_affine_b4_g64",
    "gemma3_text_affine_b4_g64",
    "qwen3_moe_affine_b4_g64",
];

fn open(folder: &Path) -> Model {
    Model::open(folder).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn both_styles_of_configuration_are_the_same_model() {
    for name in CHECKPOINTS {
        let Some(folder) = golden(name) else { continue };
        let [four, five] = ["config.json", "config.transformers5.json"].map(|file| {
            let path = folder.join(file);
            ModelSpec::parse(&path, &read_json(&path)).unwrap_or_else(|error| panic!("{error}"))
        });
        assert_eq!(four, five, "{name}");
    }
    let spec = |name| golden(name).map(|folder| ModelSpec::load(&folder).unwrap_or_else(|error| panic!("{error}")));
    let Some(linear) = spec("llama_rope_linear") else {
        return;
    };
    assert_eq!((linear.rope.theta, linear.rope.scaling), (100_000.0, RopeScaling::Linear { factor: 4.0 }));
    let Some(llama3) = spec("llama_rope_llama3") else {
        return;
    };
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 32 };
    assert_eq!(llama3.rope.scaling, scaling);
    let Some(yarn) = spec("qwen2_rope_yarn") else {
        return;
    };
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_positions: 32,
        attention_factor: 0.1 * 4f64.ln() + 1.0,
        truncate: true,
    };
    assert_eq!(yarn.rope.scaling, scaling);
}

#[test]
fn layers_see_what_their_family_says() {
    let windows = |name: &str, change: serde_json::Value| {
        let folder = golden(name)?;
        let path = folder.join("config.json");
        let mut config = read_json(&path);
        for (field, value) in change.as_object().expect("an object") {
            config[field] = value.clone();
        }
        let spec = ModelSpec::parse(&path, &config).unwrap_or_else(|error| panic!("{error}"));
        Some(spec.windows.iter().map(|window| window.window).collect::<Vec<_>>())
    };
    for (name, change, expected) in [
        ("llama", json!({"sliding_window": 8}), &[0, 0][..]),
        ("mistral", json!({}), &[32, 32]),
        ("mistral", json!({"sliding_window": null}), &[0, 0]),
        ("mistral", json!({"layer_types": ["full_attention", "sliding_attention"]}), &[0, 32]),
        ("qwen2", json!({}), &[0, 0]),
        ("qwen2", json!({"use_sliding_window": true}), &[0, 16]),
        ("qwen2", json!({"use_sliding_window": true, "max_window_layers": 0}), &[16, 16]),
        ("qwen2", json!({"use_sliding_window": true, "sliding_window": null}), &[0, 0]),
        ("qwen3", json!({"sliding_window": 16}), &[0, 0, 0]),
        ("gemma", json!({"sliding_window": 16}), &[0, 0, 0]),
        ("gemma2", json!({}), &[32, 0, 32, 0]),
        ("gemma3_text", json!({}), &[24, 24, 0, 24]),
        ("gemma3_text", json!({"sliding_window_pattern": null}), &[24, 24, 24, 24]),
        ("gemma3_text", json!({"sliding_window_pattern": null, "_sliding_window_pattern": 2}), &[24, 0, 24, 0]),
        ("qwen3", json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 2}), &[0, 0, 16]),
    ] {
        let Some(found) = windows(name, change.clone()) else { continue };
        assert_eq!(found, expected, "{name} with {change}");
    }
}

#[test]
fn affine_codes_are_those_of_mlx_and_dequantize_as_there() {
    let Some(folder) = golden("mlx") else { return };
    let vectors =
        Safetensors::open(&folder.join("dequant_vectors.safetensors")).unwrap_or_else(|error| panic!("{error}"));
    let cases = read_json(&folder.join("dequant_vectors.json"));
    let mut n_cases = 0;
    for (name, case) in
        cases["cases"].as_object().expect("an object").iter().filter(|(_, case)| case["mode"] == "affine")
    {
        let tensor = |part: &str| vectors.get(&format!("{name}.{part}")).unwrap_or_else(|| panic!("{name}.{part}"));
        let (weight, scales, biases) = (tensor("weight"), tensor("scales"), tensor("biases"));
        let expected = tensor("dequant_f32");
        let &[n_rows, n_cols] = expected.shape else { panic!("{name}: no matrix") };
        let shape =
            QuantShape::infer(n_cols, weight.shape[1], scales.shape[1]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            (u64::from(shape.bits), u64::from(shape.group)),
            (case["bits"].as_u64().unwrap(), case["group_size"].as_u64().unwrap())
        );
        let scale_type = match scales.stored {
            StoredType::F16 => ScaleType::F16,
            StoredType::Bf16 => ScaleType::Bf16,
            _ => ScaleType::F32,
        };
        let (codes, scales, biases) = (weight.bytes, scales.bytes, biases.bytes);
        let found = AffineView { shape, scale_type, n_rows, n_cols, codes, scales, biases }.dequantize();
        let source = vectors.get("source.f32").expect("what was quantized").to_f32s().expect("floats");
        let rounded = source.into_iter().map(|number| match scale_type {
            ScaleType::F16 => half::f16::from_f32(number).to_f32(),
            ScaleType::Bf16 => half::bf16::from_f32(number).to_f32(),
            ScaleType::F32 => number,
        });
        let made = AffineMatrix::quantize(&rounded.collect::<Vec<_>>(), n_rows, n_cols, shape, scale_type);
        assert!(made.codes == codes, "{name}: other codes than MLX's");
        assert!(made.scales == scales && made.biases == biases, "{name}: other scales than MLX's");
        let expected = expected.to_f32s().expect("floats");
        for (found, expected) in found.chunks(shape.group as usize).zip(expected.chunks(shape.group as usize)) {
            let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() <= 1e-6 * largest, "{name}: {f} is not {e}");
            }
        }
        n_cases += 1;
    }
    assert!(n_cases >= 30, "only {n_cases} cases");
}

#[test]
fn small_floats_are_those_of_mlx_and_dequantize_exactly_as_there() {
    let Some(folder) = golden("mlx") else { return };
    let vectors =
        Safetensors::open(&folder.join("dequant_vectors.safetensors")).unwrap_or_else(|error| panic!("{error}"));
    for mode in SmallFloat::ALL {
        let tensor = |part: &str| vectors.get(&format!("{}_bf16.{part}", mode.name())).expect("a case of every mode");
        let (weight, scales, expected) = (tensor("weight"), tensor("scales"), tensor("dequant_f32"));
        let &[n_rows, n_cols] = expected.shape else { panic!("no matrix") };
        assert_eq!(SmallFloat::infer(n_cols, weight.shape[1], scales.shape[1]), Ok(mode));
        let (codes, scales) = (weight.bytes, scales.bytes);
        let found = SmallFloatView { mode, n_rows, n_cols, codes, scales, global: None }.dequantize();
        assert_eq!(found, expected.to_f32s().expect("floats"), "{}", mode.name());
        // And the quantizer gives the same codes.
        let source = vectors.get("source.f32").expect("what was quantized").to_f32s().expect("floats");
        let source: Vec<f32> = source.into_iter().map(|number| half::bf16::from_f32(number).to_f32()).collect();
        let made = SmallFloatMatrix::quantize(&source, n_rows, n_cols, mode);
        assert!(made.codes == codes && made.scales == scales, "{}: other codes than MLX's", mode.name());
    }
}

#[test]
fn checkpoints_lower_to_verified_graphs_with_all_weights() {
    let quantized = MLX_CHECKPOINTS.iter().chain(&["llama_affine_mixed"]).map(|name| format!("mlx/{name}"));
    for name in CHECKPOINTS.iter().map(|name| name.to_string()).chain(quantized) {
        let Some(folder) = golden(&name) else { continue };
        let model = open(&folder);
        let graph = model.graph().unwrap_or_else(|error| panic!("{error}"));
        graph.verify().expect("the lowering verified it");
        let spec = &model.spec;
        assert_eq!(graph.kv.layers.len() as u32, spec.n_layers);
        let windows: std::collections::BTreeSet<u32> = spec.windows.iter().map(|window| window.window).collect();
        assert_eq!(graph.kv.groups.len(), windows.len());
        let logits = &graph.values[graph.outputs[0]];
        assert_eq!(logits.shape.n_cols, spec.vocab_size);
        for (id, weight) in graph.weights.iter() {
            if !matches!(weight.source, ingot_ir::weight::Source::Tensor(_)) {
                continue;
            }
            match model.weights().load(weight).unwrap_or_else(|error| panic!("{error}")) {
                Loaded::Vector(numbers) => {
                    assert_eq!([numbers.len() as u32, 1], [weight.n_rows, weight.n_cols])
                }
                Loaded::Matrix(matrix) => {
                    assert_eq!(
                        (matrix.format(), matrix.shape()),
                        (weight.format, [weight.n_rows as usize, weight.n_cols as usize]),
                        "{id}"
                    );
                    let mut row = vec![f32::NAN; weight.n_cols as usize];
                    matrix.read_row(weight.n_rows as usize - 1, &mut row);
                    assert!(row.iter().all(|v| v.is_finite()));
                }
            }
        }
        let head = graph.values.iter().rev().find_map(|(_, value)| match value.op {
            Op::Linear { weight, .. } => Some(weight),
            _ => None,
        });
        let Op::Embed { parts } = &graph.values.as_slice()[0].op else { panic!("{name}: no embedding") };
        assert_eq!(head == Some(parts[0]), spec.tie_word_embeddings == Some(true), "{name}");
    }
}

#[test]
fn settings_of_single_layers_are_inferred_from_shapes() {
    let Some(folder) = golden("mlx/llama_affine_mixed") else {
        return;
    };
    let model = open(&folder);
    let format = |path: &str, rows, cols| model.weights().matrix(path, rows, cols).map(|m: Matrix<'_>| m.format());
    let affine = |bits, group| Format::Affine { bits, group, scales: ScaleType::Bf16 };
    assert_eq!(format("model.embed_tokens", 320, 128).unwrap(), affine(8, 32));
    assert_eq!(format("model.layers.1.mlp.down_proj", 128, 128).unwrap(), affine(6, 64));
    assert_eq!(format("model.layers.1.mlp.up_proj", 128, 128).unwrap(), affine(4, 64));
    assert_eq!(format("lm_head", 320, 128).unwrap(), Format::Bf16);
}

/// Three experts of one row each, of which each has a global scale; and a module that the configuration leaves float.
#[test]
fn stacks_have_a_global_scale_an_expert_and_false_keeps_floats() {
    let folder = tempfile::tempdir().expect("a folder");
    let decl = |name: &str, stored, shape: &[usize]| TensorDecl { name: name.into(), stored, shape: shape.to_vec() };
    let globals = [448.0f32 * 6.0, 448.0 * 12.0, 448.0 * 3.0];
    let one = |stored| match stored {
        StoredType::F32 => globals.map(f32::to_le_bytes).concat(),
        // 1 as e4m3.
        StoredType::U8 => vec![0x38; 3],
        // 1 and -1 as e2m1, the low one first.
        _ => vec![0xa2; 3 * 8],
    };
    let decls = [
        decl("mlp.weight", StoredType::U32, &[3, 1, 2]),
        decl("mlp.scales", StoredType::U8, &[3, 1, 1]),
        decl("mlp.global_scale", StoredType::F32, &[3]),
        decl("plain.weight", StoredType::F32, &[1, 3]),
        decl("plain.scales", StoredType::U8, &[3, 1, 1]),
    ];
    let path = folder.path().join("model.safetensors");
    write(&path, &BTreeMap::new(), &decls, |ix, out| out.copy_from_slice(&one(decls[ix].stored))).expect("written");
    let checkpoint = Checkpoint::open(folder.path()).expect("opens");
    let mut config = config();
    config["quantization"] = json!({ "group_size": 16, "bits": 4, "mode": "nvfp4", "plain": false });
    let spec = ModelSpec::parse(Path::new("config.json"), &config).expect("right");
    let weights = WeightTable::new(&checkpoint, spec.quantization.as_ref());
    let stack = weights.matrix("mlp", 3, 16).expect("a stack");
    assert_eq!(stack.format().to_string(), "nvfp4_global");
    for (row, factor) in [1.0, 2.0, 0.5].into_iter().enumerate() {
        let mut numbers = [0.0; 16];
        stack.read_row(row, &mut numbers);
        assert_eq!(numbers, std::array::from_fn(|ix| if ix % 2 == 0 { factor } else { -factor }), "{row}");
    }
    let Ok(Matrix::Dense { stored: StoredType::F32, .. }) = weights.matrix("plain", 1, 3) else { panic!("not float") };
    // Without the setting the same tensors would be a quantized module's.
    assert_error(WeightTable::new(&checkpoint, None).matrix("plain", 1, 3), &["plain.weight", "U32"]);
    assert_error(weights.matrix("mlp", 4, 16), &["mlp.weight", "[4, ...]"]);
}

#[test]
fn shipped_models_lower() {
    for name in ["ingot-tales-14m", "ingot-tales-1m"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let model = open(&folder);
        model.graph().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(model.spec.eos_ids, [0, 2]);
    }
}

/// Of a checkpoint that sees too, the language model: its settings under `text_config`, its tensors under another path.
#[test]
fn a_language_model_within_another_is_found() {
    let Some(folder) = golden("gemma3_text") else { return };
    let alone = open(&folder);
    let out = tempfile::tempdir().expect("a folder");
    for root in ["language_model.model", "model.language_model"] {
        let mut config = read_json(&folder.join("config.json"));
        let quiet = config.as_object_mut().expect("an object");
        // What the file says once, beside its parts.
        let eos = quiet.remove("eos_token_id").expect("it is there");
        let config =
            json!({ "model_type": "gemma3", "eos_token_id": [eos, 9], "text_config": config, "vision_config": {} });
        std::fs::write(out.path().join("config.json"), config.to_string()).expect("a file");
        let mut names: Vec<(String, Option<&str>)> =
            alone.checkpoint.names().map(|name| (name.replacen("model", root, 1), Some(name))).collect();
        names.push(("vision_tower.embeddings.weight".into(), None));
        let decls: Vec<TensorDecl> = names
            .iter()
            .map(|(name, source)| {
                let source = source.map(|name| alone.checkpoint.get(name).expect("it was named"));
                let (stored, shape) = source.map_or((StoredType::F32, vec![2, 2]), |t| (t.stored, t.shape.to_vec()));
                TensorDecl { name: name.clone(), stored, shape }
            })
            .collect();
        let fill = |ix: usize, bytes: &mut [u8]| {
            if let Some(tensor) = names[ix].1.and_then(|name| alone.checkpoint.get(name)) {
                bytes.copy_from_slice(tensor.bytes);
            }
        };
        write(&out.path().join("model.safetensors"), &Default::default(), &decls, fill).expect("a file");
        let within = open(out.path());
        assert_eq!(within.spec.eos_ids, [1, 9]);
        assert_eq!(ModelSpec { eos_ids: vec![1], ..within.spec.clone() }, alone.spec);
        let graph = |model: &Model| model.graph().unwrap_or_else(|error| panic!("{error}")).to_string();
        assert_eq!(graph(&within).replace(root, "model"), graph(&alone));
    }
}
