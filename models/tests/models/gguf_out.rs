//! GGUF files of our making, against those that llama.cpp and its converter wrote; and the way between GGUF and MLX on which
//! nothing is lost.

use crate::{assert_error, golden, read_json};
use ingot_ir::weight::{Layout, Source};
use ingot_models::Model;
use ingot_models::convert::{ConvertOptions, GgufType, convert, convert_gguf};
use ingot_models::formats::gguf::Gguf;
use ingot_models::rope;
use ingot_models::text::tokenizer::Tokenizer;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn repack() -> ConvertOptions {
    ConvertOptions { repack: true, ..ConvertOptions::default() }
}

pub(crate) fn to_gguf(source: &Path, out: &Path, kind: GgufType) -> Gguf {
    let mut told = Vec::new();
    let progress = &mut |done, total| {
        told.push((done, total));
        true
    };
    let converted = convert_gguf(source, out, kind, progress).unwrap_or_else(|error| panic!("{error}"));
    assert!(told.is_sorted() && told.last() == Some(&(converted.n_bytes, converted.n_bytes)), "{told:?}");
    Gguf::open(out).unwrap_or_else(|error| panic!("{error}"))
}

/// A golden folder with the golden tokenizer beside its weights.
fn whole(to: &Path, name: &str) -> Option<PathBuf> {
    let (weights, tokenizer) = (golden(name)?, golden("tokenizer")?);
    std::fs::create_dir_all(to).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(weights.join(file), to.join(file)).expect("a copy");
    }
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(file), to.join(file)).expect("a copy");
    }
    Some(to.to_path_buf())
}

#[track_caller]
fn assert_same_tensors(found: &Gguf, expected: &Gguf, what: &str) {
    let sorted = |file: &Gguf| {
        let mut names: Vec<String> = file.tensors().iter().map(|tensor| tensor.name.clone()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(sorted(found), sorted(expected), "{what}");
    for tensor in expected.tensors() {
        let own = found.tensors().iter().find(|own| own.name == tensor.name).expect("listed");
        assert_eq!((own.stored, &own.shape), (tensor.stored, &tensor.shape), "{what}: {}", tensor.name);
        assert!(found.bytes(own) == expected.bytes(tensor), "{what}: {} has other bytes", tensor.name);
    }
}

/// Every number of a model's matrices and vectors, by weight.
fn numbers(model: &Model) -> Vec<(String, Vec<u32>)> {
    let graph = model.graph().unwrap_or_else(|error| panic!("{error}"));
    let mut all: Vec<(String, Vec<u32>)> = Vec::new();
    for (_, weight) in graph.weights.iter() {
        let Source::Tensor(name) = &weight.source else { continue };
        let (n_rows, n_cols) = (weight.n_rows as usize, weight.n_cols as usize);
        let numbers = match weight.layout {
            Layout::Vector => model.weights().vector(name, n_rows).expect("a vector").to_f32s().expect("floats"),
            _ => {
                let matrix = model.weights().matrix(name, n_rows, n_cols).expect("a matrix");
                let mut out = vec![0.0; n_rows * n_cols];
                out.chunks_exact_mut(n_cols).enumerate().for_each(|(row, out)| matrix.read_row(row, out));
                out
            }
        };
        // Bits, so that nothing passes for nearly equal.
        all.push((name.clone(), numbers.iter().map(|number| number.to_bits()).collect()));
    }
    all
}

#[test]
fn blocks_are_those_of_ggml() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(source) = whole(&folder.path().join("llama"), "llama") else { return };
    for name in ["f16", "q8_0", "q4_0"] {
        let Some(expected) = golden(&format!("gguf/llama-{name}.gguf")) else { continue };
        let expected = Gguf::open(&expected).expect("opens");
        let kind = GgufType::parse(name).expect("a type");
        let found = to_gguf(&source, &folder.path().join(format!("{name}.gguf")), kind);
        assert_same_tensors(&found, &expected, name);
        // What the converter says of the files' names is its own affair.
        let own = |key: &&String| !["general.name", "general.size_label"].contains(&key.as_str());
        for key in expected.metadata().keys().filter(own) {
            let (found, expected) = (found.metadata().get(key), expected.metadata().get(key));
            if key == "tokenizer.ggml.add_space_prefix" {
                // No part of a tokenizer of bytes.
                continue;
            }
            assert_eq!(found, expected, "{name}: {key}");
        }
    }
}

#[test]
fn files_go_to_mlx_and_back_without_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16"] {
        let Some(file) = golden(&format!("gguf/llama-{name}.gguf")) else { continue };
        let (mlx, back) = (folder.path().join(name), folder.path().join(format!("{name}.gguf")));
        convert(&file, &mlx, &repack(), &mut |_, _| true).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(numbers(&Model::open(&mlx).expect("opens")), numbers(&Model::open(&file).expect("opens")), "{name}");
        let back = to_gguf(&mlx, &back, GgufType::Repack);
        assert_same_tensors(&back, &Gguf::open(&file).expect("opens"), name);
    }
    // Blocks that MLX has no form for.
    let Some(file) = golden("gguf/llama256-q4_k_m.gguf") else { return };
    let refused = convert(&file, &folder.path().join("k"), &repack(), &mut |_, _| true);
    assert_error(refused, &["tensor `token_embd.weight`", "_k", "no form that loses nothing"]);
}

#[test]
fn mlx_folders_go_to_files_and_back_without_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [
        "llama_affine_b4_g32",
        "llama_affine_b4_g64",
        "llama_affine_b4_g64_f16",
        "llama_mxfp4",
        "qwen3_moe_affine_b4_g64",
    ] {
        let Some(source) = golden(&format!("mlx/{name}")) else { continue };
        let out = folder.path().join(format!("{name}.gguf"));
        to_gguf(&source, &out, GgufType::Repack);
        assert_eq!(
            numbers(&Model::open(&out).expect("opens")),
            numbers(&Model::open(&source).expect("opens")),
            "{name}"
        );
    }
    for (name, words) in [
        ("llama_affine_b8_g64", &[".weight`", "scale", "bias", "Q8_0 cannot hold"][..]),
        ("llama_affine_b3_g64", &[".weight`", "affine3g64", "not written without loss"]),
        ("llama_mxfp8", &[".weight`", "mxfp8"]),
    ] {
        let Some(source) = golden(&format!("mlx/{name}")) else { continue };
        let out = folder.path().join("refused.gguf");
        assert_error(convert_gguf(&source, &out, GgufType::Repack, &mut |_, _| true), words);
        // Numbers go all the same.
        let out = folder.path().join(format!("{name}.gguf"));
        to_gguf(&source, &out, GgufType::parse("f32").expect("a type"));
        assert_eq!(
            numbers(&Model::open(&out).expect("opens")),
            numbers(&Model::open(&source).expect("opens")),
            "{name}"
        );
    }
}

/// Biases, rotary settings, tied heads, tokenizer.
#[test]
fn files_are_the_folders_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let f32s = GgufType::parse("f32").expect("a type");
    for name in [
        "qwen2",
        "qwen2_tied",
        "qwen2_rope_yarn",
        "llama_rope_llama3",
        "llama_rope_linear",
        "llama_tied",
        "mistral",
        "qwen3",
        "granite",
    ] {
        let Some(source) = whole(&folder.path().join(name), name) else { continue };
        let out = folder.path().join(format!("{name}.gguf"));
        to_gguf(&source, &out, f32s);
        let (file, source) = (Model::open(&out).expect("opens"), Model::open(&source).expect("opens"));
        assert_eq!(numbers(&file), numbers(&source), "{name}");
        let freqs = |model: &Model| rope::inv_freq(&model.spec.rope, model.spec.head_dim);
        for (found, expected) in freqs(&file).iter().zip(freqs(&source)) {
            assert!((found / expected - 1.0).abs() < 1e-5, "{name}: {found} for {expected}");
        }
        assert_eq!(rope::scale(&file.spec.rope), rope::scale(&source.spec.rope), "{name}");
        // A file's texts end at `<|endoftext|>` too, whatever a folder says.
        let ends: BTreeSet<u32> = source.spec.eos_ids.iter().copied().chain([0]).collect();
        assert_eq!(file.spec.eos_ids, ends.into_iter().collect::<Vec<_>>(), "{name}");
        let same = |model: &Model| {
            let spec = &model.spec;
            let windows = spec.windows.clone();
            (spec.bos_id, spec.max_position_embeddings, spec.rms_norm_eps, spec.head_dim, windows, spec.architecture)
        };
        assert_eq!(same(&file), same(&source), "{name}");
        let of = |model: &Model| Tokenizer::load(&model.files, &[]).expect("a tokenizer");
        for text in ["Hello, world! 123", " two  spaces\nand lines", "<|im_start|>user\nhé ünïcode 💧"] {
            let ids = |model: &Model| of(model).encode(text, true).expect("encodes");
            assert_eq!(ids(&file), ids(&source), "{name}: {text:?}");
        }
    }
}

/// What cos and sin are multiplied with besides what follows of the stretch.
#[test]
fn a_factor_of_yarn_goes_along() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(source) = whole(&folder.path().join("yarn"), "qwen2_rope_yarn") else { return };
    let mut config = read_json(&source.join("config.json"));
    config["rope_scaling"]["attention_factor"] = json!(0.75);
    std::fs::write(source.join("config.json"), config.to_string()).expect("a file");
    let out = folder.path().join("yarn.gguf");
    let file = to_gguf(&source, &out, GgufType::parse("f32").expect("a type"));
    let usual = 0.1 * config["rope_scaling"]["factor"].as_f64().expect("a factor").ln() + 1.0;
    let told = file.metadata()["qwen2.rope.scaling.attn_factor"].as_f64().expect("a number");
    assert!((told * usual - 0.75).abs() < 1e-6, "{told}");
    let scale = |path: &Path| rope::scale(&Model::open(path).expect("opens").spec.rope);
    assert!(scale(&source) == 0.75 && (scale(&out) - 0.75).abs() < 1e-6, "{}", scale(&out));
}

/// Windows in no regular order, the default of a rotation of their own, and a token that has no row in the embedding.
#[test]
fn gemmas_windows_and_rotations_are_those_of_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(source) = whole(&folder.path().join("gemma3"), "gemma3_text") else { return };
    let mut config = read_json(&source.join("config.json"));
    let config_of = config.as_object_mut().expect("an object");
    let kinds = [false, true, true, false].map(|slides| if slides { "sliding_attention" } else { "full_attention" });
    config_of.extend([("layer_types".into(), json!(kinds)), ("rope_theta".into(), json!(50_000.0))]);
    config_of.remove("rope_local_base_freq");
    std::fs::write(source.join("config.json"), config.to_string()).expect("a file");
    let mut tokenizer = read_json(&source.join("tokenizer.json"));
    let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
    let mut beyond = added.first().expect("a special token").clone();
    (beyond["id"], beyond["content"]) = (config["vocab_size"].clone(), "<image_soft_token>".into());
    added.push(beyond);
    std::fs::write(source.join("tokenizer.json"), tokenizer.to_string()).expect("a file");

    let out = folder.path().join("gemma3.gguf");
    to_gguf(&source, &out, GgufType::parse("f32").expect("a type"));
    let (file, source) = (Model::open(&out).expect("opens"), Model::open(&source).expect("opens"));
    assert_eq!(file.spec.windows, source.spec.windows);
    assert_eq!(
        source.spec.windows.iter().map(|window| window.window > 0).collect::<Vec<_>>(),
        [false, true, true, false]
    );
    assert_eq!((file.spec.rope, file.spec.local_rope), (source.spec.rope, source.spec.local_rope));
    assert_eq!((source.spec.rope.theta, source.spec.local_rope.theta), (50_000.0, 10_000.0));
}

/// What a file has no place for is refused, by what it is.
#[test]
fn what_llama_cpp_has_no_word_for_is_refused() {
    let f32s = GgufType::parse("f32").expect("a type");
    for (name, change, words) in [
        ("qwen3_moe", json!({ "norm_topk_prob": false }), &["shares of experts"][..]),
        ("gemma2", json!({ "attn_logit_softcapping": null }), &["bounds scores"]),
        ("gemma3_text", json!({ "attn_logit_softcapping": 30.0 }), &["does not bound scores"]),
        (
            "qwen2_rope_yarn",
            json!({ "rope_scaling": { "type": "yarn", "factor": 4.0, "beta_fast": 16.0 } }),
            &["settings of its own"],
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(source) = whole(&folder.path().join(name), name) else { continue };
        let mut config = read_json(&source.join("config.json"));
        config.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        std::fs::write(source.join("config.json"), config.to_string()).expect("a file");
        assert_error(convert_gguf(&source, &folder.path().join("m.gguf"), f32s, &mut |_, _| true), words);
    }
}

/// A byte-level tokenizer that does more to texts than llama.cpp's would read other tokens there.
#[test]
fn tokenizers_that_change_texts_are_refused() {
    let f32s = GgufType::parse("f32").expect("a type");
    for (part, change, word) in [
        ("normalizer", json!({ "type": "Lowercase" }), "Lowercase"),
        (
            "pre_tokenizer",
            json!({ "type": "ByteLevel", "add_prefix_space": true, "use_regex": true }),
            "add_prefix_space",
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(source) = whole(&folder.path().join("llama"), "llama") else { return };
        let mut tokenizer = read_json(&source.join("tokenizer.json"));
        tokenizer[part] = change;
        std::fs::write(source.join("tokenizer.json"), tokenizer.to_string()).expect("a file");
        let words = &["llama.cpp's byte-level tokenizers do not", word];
        assert_error(convert_gguf(&source, &folder.path().join("m.gguf"), f32s, &mut |_, _| true), words);
    }
}

/// Stopped or killed: nothing is left, or what is left is recognized.
#[test]
fn a_broken_run_leaves_no_half_file() {
    let Some(source) = golden("llama") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let names = || {
        let all = std::fs::read_dir(folder.path()).expect("readable").flatten();
        all.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect::<Vec<_>>()
    };
    let f16 = GgufType::parse("f16").expect("a type");
    let (mlx, gguf) = (folder.path().join("mlx"), folder.path().join("model.gguf"));
    let to_mlx = |go_on: bool| convert(&source, &mlx, &ConvertOptions::default(), &mut |_, _| go_on);
    let to_file = |go_on: bool| convert_gguf(&source, &gguf, f16, &mut |_, _| go_on);
    assert_error(to_mlx(false), &["mlx", "stopped"]);
    assert_error(to_file(false), &["model.gguf", "stopped"]);
    assert!(names().is_empty(), "{:?}", names());

    // What a killed program left is replaced.
    let part = folder.path().join("mlx.part");
    std::fs::create_dir(&part).expect("a folder");
    std::fs::write(part.join(".ingot-part"), "").expect("a file");
    std::fs::write(part.join("model.safetensors"), "half").expect("a file");
    std::fs::write(folder.path().join("model.gguf.part"), [7; 1 << 20]).expect("a file");
    to_mlx(true).unwrap_or_else(|error| panic!("{error}"));
    to_file(true).unwrap_or_else(|error| panic!("{error}"));
    let mut left = names();
    left.sort_unstable();
    assert_eq!(left, ["mlx", "model.gguf"]);
    assert!(!mlx.join(".ingot-part").exists());
    assert!(Model::open(&mlx).and_then(|model| model.graph()).is_ok());
    assert!(Model::open(&gguf).and_then(|model| model.graph()).is_ok());
    assert_error(to_mlx(true), &["mlx", "exists already"]);
    assert_error(to_file(true), &["model.gguf", "exists already"]);

    // What another program is writing is not, nor a folder of another kind.
    std::fs::remove_dir_all(&mlx).expect("removed");
    std::fs::remove_file(&gguf).expect("removed");
    std::fs::create_dir(&part).expect("a folder");
    assert_error(to_mlx(true), &["mlx.part", "exists already"]);
    let lock = std::fs::File::create(part.join(".ingot-part")).expect("a file");
    lock.lock().expect("a lock");
    assert_error(to_mlx(true), &["mlx.part", "another conversion"]);
    assert!(part.is_dir());
}
