//! AWQ and GPTQ: what is made of known codes, and what is refused.

use crate::packing::{Known, Layout, quantization_config, write_folder};
use crate::{assert_error, config, read_json};
use ingot_ir::weight::{Format, ScaleType};
use ingot_models::Model;
use ingot_models::convert::{ConvertOptions, GgufType, convert, convert_gguf};
use ingot_models::formats::safetensors::{Safetensors, StoredType, TensorDecl, write};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[track_caller]
fn assert_holds(model: &Model, known: &BTreeMap<String, Known>) {
    for (path, known) in known {
        let matrix = model.weights().matrix(path, known.n_rows, known.n_cols).unwrap_or_else(|error| panic!("{error}"));
        let group = if known.group % 128 == 0 { 128 } else { known.group as u16 };
        assert_eq!(matrix.format(), Format::Affine { bits: 4, group, scales: ScaleType::F16 }, "{path}");
        let mut out = vec![0.0; known.n_cols];
        for row in 0..known.n_rows {
            matrix.read_row(row, &mut out);
            let expected: Vec<f32> = (0..known.n_cols).map(|col| known.number(row, col)).collect();
            assert_eq!(out, expected, "{path}, row {row}");
        }
    }
}

#[test]
fn codes_come_out_of_every_layout() {
    let mut config = config();
    (config["hidden_size"], config["intermediate_size"]) = (256.into(), 512.into());
    config["torch_dtype"] = "float16".into();
    for layout in [Layout::Awq, Layout::Gptq, Layout::GptqV2] {
        // 256 columns are one group for most of the matrices.
        for group in [32, 64, 128, 256] {
            let (source, out) = (folder(), folder());
            let known = write_folder(source.path(), layout, &config, group);
            let model = Model::open(source.path()).unwrap_or_else(|error| panic!("{layout:?}: {error}"));
            model.graph().unwrap_or_else(|error| panic!("{layout:?}: {error}"));
            assert_holds(&model, &known);
            // And as MLX's own.
            let mlx = out.path().join("mlx");
            convert(source.path(), &mlx, &ConvertOptions::default(), &mut |_, _| true).expect("converts");
            assert_eq!(read_json(&mlx.join("config.json"))["quantization"]["bits"], 4);
            assert!(read_json(&mlx.join("config.json"))["quantization"].get("quant_method").is_none());
            assert_holds(&Model::open(&mlx).expect("opens"), &known);
        }
    }
}

/// Scales and biases of f16 are those of Q4_1.
#[test]
fn packed_codes_go_to_gguf_without_loss() {
    let (source, out) = (folder(), folder());
    let known = write_folder(source.path(), Layout::Awq, &config(), 32);
    let file = out.path().join("model.gguf");
    convert_gguf(source.path(), &file, GgufType::Repack, &mut |_, _| true).expect("converts");
    assert_holds(&Model::open(&file).expect("opens"), &known);
}

/// Rewrites a folder's tensors.
fn change(folder: &Path, mut f: impl FnMut(&mut TensorDecl, &mut Vec<u8>) -> bool) {
    let path = folder.join("model.safetensors");
    let file = Safetensors::open(&path).expect("opens");
    let mut kept = Vec::new();
    for tensor in file.tensors() {
        let mut decl = TensorDecl { name: tensor.name.into(), stored: tensor.stored, shape: tensor.shape.to_vec() };
        let mut bytes = tensor.bytes.to_vec();
        if f(&mut decl, &mut bytes) {
            kept.push((decl, bytes));
        }
    }
    drop(file);
    let decls: Vec<TensorDecl> = kept.iter().map(|(decl, _)| decl.clone()).collect();
    write(&path, &BTreeMap::new(), &decls, |ix, out| out.copy_from_slice(&kept[ix].1)).expect("is written");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let open = |layout: Layout, f: &mut dyn FnMut(&mut TensorDecl, &mut Vec<u8>) -> bool| {
        let source = folder();
        write_folder(source.path(), layout, &config(), 32);
        change(source.path(), f);
        Model::open(source.path()).and_then(|model| model.graph())
    };
    let q = "model.layers.0.self_attn.q_proj";
    let is = |decl: &TensorDecl, ending: &str| decl.name == format!("{q}.{ending}");
    let swapped = open(Layout::Gptq, &mut |decl, bytes| {
        if is(decl, "g_idx") {
            bytes.copy_within(4..8, 32 * 4);
        }
        true
    });
    assert_error(swapped, &["q_proj.g_idx", "act-order"]);
    assert_error(open(Layout::Awq, &mut |decl, _| !is(decl, "scales")), &["q_proj.scales", "missing"]);
    let halves = open(Layout::Awq, &mut |decl, bytes| {
        if is(decl, "qzeros") {
            decl.shape = vec![1, decl.shape[1]];
            bytes.truncate(bytes.len() / 2);
        }
        true
    });
    assert_error(halves, &["q_proj.qzeros", "expected I32 [2, 8]"]);
    let floats = open(Layout::Awq, &mut |decl, _| {
        if is(decl, "qweight") {
            decl.stored = StoredType::F32;
        }
        true
    });
    assert_error(floats, &["q_proj.qweight", "F32"]);
    // Zeros that are not there are 8.
    assert!(open(Layout::Awq, &mut |decl, _| !decl.name.ends_with("qzeros")).is_ok());
    assert!(open(Layout::Gptq, &mut |decl, _| !decl.name.ends_with("g_idx")).is_ok());
    // A GPTQ checkpoint whose configuration calls it AWQ.
    let source = folder();
    write_folder(source.path(), Layout::Gptq, &config(), 32);
    let with = |quantization: Value| {
        let mut config = config();
        config["quantization_config"] = quantization;
        std::fs::write(source.path().join("config.json"), config.to_string()).expect("is written");
        Model::open(source.path()).and_then(|model| model.graph())
    };
    assert_error(with(quantization_config(Layout::Awq, 32)), &["tensor", "expected"]);
    for (key, value, words) in [
        ("bits", 8.into(), &["quantization_config.bits", "8", "4"][..]),
        ("checkpoint_format", "marlin".into(), &["checkpoint_format", "marlin", "gptq_v2"]),
        ("quant_method", "fp8".into(), &["`fp8`", "awq and gptq"]),
        ("dynamic", serde_json::json!({ "-:.*": {} }), &["dynamic", "not supported"]),
    ] {
        let mut quantization = quantization_config(Layout::Gptq, 32);
        quantization[key] = value;
        assert_error(with(quantization), words);
    }
    let mut gemv = quantization_config(Layout::Awq, 32);
    gemv["version"] = "gemv".into();
    assert_error(with(gemv), &["version", "gemv", "gemm"]);
}
