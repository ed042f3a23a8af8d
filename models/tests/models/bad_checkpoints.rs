//! Folders, files and tensors that are wrong; and that the message says what is.

use crate::{assert_error, config, write_zeroes};
use ingot_models::formats::checkpoint::Checkpoint;
use ingot_models::formats::safetensors::{Safetensors, StoredType, StoredType::*};
use ingot_models::weights::WeightTable;
use ingot_models::{Error, Model};
use std::path::Path;
use tempfile::{TempDir, tempdir};

fn folder() -> TempDir {
    tempdir().expect("a temporary folder can be made")
}

fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).expect("a temporary file can be written");
}

/// A file with this header and so many data bytes.
fn with_header(header: &str, n_data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.resize(bytes.len() + n_data, 0);
    bytes
}

fn open_bytes(bytes: impl AsRef<[u8]>) -> Result<(), Error> {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    put(&path, bytes);
    Safetensors::open(&path).map(drop)
}

#[test]
fn folders() {
    let folder = folder();
    let absent = folder.path().join("absent");
    assert_error(Model::open(&absent), &["absent", "no such folder", "config.json"]);
    let file = folder.path().join("config.json");
    put(&file, "{}");
    assert_error(Model::open(&file), &["config.json", "is a file, and no GGUF file"]);
    assert_error(Checkpoint::open(folder.path()), &["no model*.safetensors", "fetch the checkpoint as safetensors"]);
    put(&folder.path().join("weights.gguf"), "x");
    assert_error(Checkpoint::open(folder.path()), &["found weights.gguf"]);
    assert_error(Safetensors::open(&absent), &["absent", "no such file"]);
    assert_error(Safetensors::open(folder.path()), &["is a folder"]);
}

#[test]
fn truncated_files_and_headers() {
    assert_error(open_bytes(""), &["model.safetensors", "0 bytes"]);
    assert_error(open_bytes([1, 2, 3]), &["3 bytes"]);
    let mut beyond = 1000u64.to_le_bytes().to_vec();
    beyond.extend(b"{}");
    assert_error(open_bytes(beyond), &["1000 bytes", "only 2 follow", "truncated"]);
    assert_error(open_bytes(u64::MAX.to_le_bytes()), &["the format allows 100000000"]);
    assert_error(open_bytes(with_header("{", 0)), &["not a table of tensors"]);
    assert_error(open_bytes(with_header("[1]", 0)), &["not a table of tensors"]);
    assert_error(open_bytes(with_header(&"[".repeat(100_000), 0)), &["not a table of tensors"]);
    assert_error(open_bytes(with_header(r#"{"a": 1}"#, 0)), &["tensor `a`"]);
    assert_error(
        open_bytes(with_header(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4)),
        &["tensor `a`"],
    );
    open_bytes(with_header("{}  ", 0)).expect("an empty table is right");
}

#[test]
fn entries() {
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#""dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}"#)
    };
    let one = |dtype, shape, offsets, n_data| {
        open_bytes(with_header(&format!(r#"{{"a":{{{}}}}}"#, entry(dtype, shape, offsets)), n_data))
    };
    one("F32", "[2]", "[0,8]", 8).expect("right");
    one("F32", "[]", "[0,4]", 4).expect("a scalar is right");
    assert_error(one("F31", "[2]", "[0,8]", 8), &["tensor `a`", "type `F31`", "BF16"]);
    assert_error(one("F32", "[2]", "[0,8]", 7), &["tensor `a`", "0..8", "7 data bytes", "truncated"]);
    assert_error(one("F32", "[2]", "[8,0]", 8), &["tensor `a`", "8..0"]);
    assert_error(one("F32", "[3]", "[0,8]", 8), &["tensor `a`", "[3] of F32", "8 bytes"]);
    assert_error(one("F32", "[2]", "[0,8]", 9), &["1 data bytes belong to no tensor"]);
    assert_error(one("F32", "[2]", "[1,9]", 9), &["tensor `a`", "no holes"]);
    let overflow = "[4294967296,4294967296,4294967296]";
    assert_error(one("F32", overflow, "[0,8]", 8), &["tensor `a`", "does not fill"]);
    let two = |a: &str, b: &str, names: [&str; 2], n_data| {
        let [first, second] = names;
        let header = format!(r#"{{"{first}":{{{}}},"{second}":{{{}}}}}"#, entry("U8", "[4]", a), entry("U8", "[4]", b));
        open_bytes(with_header(&header, n_data))
    };
    two("[4,8]", "[0,4]", ["a", "b"], 8).expect("any order is right");
    assert_error(two("[0,4]", "[2,6]", ["a", "b"], 6), &["tensor `b`", "inside the tensor before it"]);
    assert_error(two("[0,4]", "[0,4]", ["a", "b"], 4), &["tensor `b`", "inside the tensor before it"]);
    assert_error(two("[0,4]", "[5,9]", ["a", "b"], 9), &["tensor `b`", "no holes"]);
    assert_error(two("[0,4]", "[4,8]", ["a", "a"], 8), &["tensor `a`", "twice"]);
}

#[test]
fn unaligned_tensors_are_read() {
    let header =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#;
    let mut bytes = with_header(header, 1);
    bytes.extend(1.5f32.to_le_bytes());
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    put(&path, bytes);
    let file = Safetensors::open(&path).expect("right");
    assert_eq!(file.get("b").and_then(|tensor| tensor.to_f32s()), Some(vec![1.5]));
    assert_eq!(file.get("a").and_then(|tensor| tensor.to_f32s()), None);
}

#[test]
fn shards_and_index() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    write_zeroes(&at("model-1.safetensors"), &[("a", F32, &[2])]);
    write_zeroes(&at("model-2.safetensors"), &[("b", F16, &[2])]);
    let checkpoint = Checkpoint::open(folder.path()).expect("right without an index");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_error(checkpoint.require("c"), &["tensor `c` is missing", "of 2 tensors"]);
    let index = at("model.safetensors.index.json");
    put(&index, r#"{"weight_map": {"a": "model-1.safetensors", "c": "model-3.safetensors"}}"#);
    assert_error(
        Checkpoint::open(folder.path()),
        &["model-3.safetensors", "named in model.safetensors.index.json", "fetch it again"],
    );
    put(&index, r#"{"weight_map": {"a": "../model-1.safetensors"}}"#);
    assert_error(Checkpoint::open(folder.path()), &["tensor `a`", "not the name of a file of this folder"]);
    put(&index, "{");
    assert_error(Checkpoint::open(folder.path()), &["index.json", "not valid JSON"]);
    put(&index, "{}");
    assert_error(Checkpoint::open(folder.path()), &["index.json", "weight_map"]);
    std::fs::remove_file(index).expect("it is there");
    write_zeroes(&at("model-3.safetensors"), &[("a", F32, &[2])]);
    assert_error(
        Checkpoint::open(folder.path()),
        &["model-3.safetensors", "tensor `a`", "is also in", "model-1.safetensors"],
    );
}

type Tensors = Vec<(&'static str, StoredType, Vec<usize>)>;

/// The tensors of the model that [`config`] describes.
fn llama() -> Tensors {
    let layer = |name: &'static str, shape: &[usize]| (name, Bf16, shape.to_vec());
    vec![
        layer("model.embed_tokens.weight", &[32, 64]),
        layer("model.layers.0.input_layernorm.weight", &[64]),
        layer("model.layers.0.self_attn.q_proj.weight", &[64, 64]),
        layer("model.layers.0.self_attn.k_proj.weight", &[32, 64]),
        layer("model.layers.0.self_attn.v_proj.weight", &[32, 64]),
        layer("model.layers.0.self_attn.o_proj.weight", &[64, 64]),
        layer("model.layers.0.post_attention_layernorm.weight", &[64]),
        layer("model.layers.0.mlp.gate_proj.weight", &[96, 64]),
        layer("model.layers.0.mlp.up_proj.weight", &[96, 64]),
        layer("model.layers.0.mlp.down_proj.weight", &[64, 96]),
        layer("model.norm.weight", &[64]),
        layer("lm_head.weight", &[32, 64]),
    ]
}

fn lower(tensors: &Tensors, config: serde_json::Value) -> Result<ingot_ir::graph::Graph, Error> {
    let folder = folder();
    let tensors: Vec<_> = tensors.iter().map(|(name, stored, shape)| (*name, *stored, shape.as_slice())).collect();
    write_zeroes(&folder.path().join("model.safetensors"), &tensors);
    put(&folder.path().join("config.json"), config.to_string());
    Model::open(folder.path())?.graph()
}

fn set(name: &'static str, stored: StoredType, shape: &[usize]) -> Tensors {
    let mut tensors = llama();
    tensors.retain(|(found, ..)| *found != name);
    tensors.push((name, stored, shape.to_vec()));
    tensors
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    lower(&llama(), config()).expect("right");
    let mut tensors = llama();
    tensors.retain(|(name, ..)| *name != "model.layers.0.mlp.up_proj.weight");
    assert_error(lower(&tensors, config()), &["tensor `model.layers.0.mlp.up_proj.weight` is missing", "config.json"]);
    let wrong = set("model.layers.0.mlp.up_proj.weight", Bf16, &[64, 96]);
    assert_error(lower(&wrong, config()), &["up_proj.weight", "[64, 96]", "[96, 64]"]);
    let wrong = set("model.layers.0.mlp.up_proj.weight", I32, &[96, 64]);
    assert_error(lower(&wrong, config()), &["up_proj.weight", "I32", "BF16"]);
    let wrong = set("model.norm.weight", F32, &[65]);
    assert_error(lower(&wrong, config()), &["model.norm.weight", "[65]", "[64]"]);
    let wrong = set("model.norm.weight", F64, &[64]);
    assert_error(lower(&wrong, config()), &["model.norm.weight", "F64"]);
    let surplus = set("model.layers.1.input_layernorm.weight", F32, &[64]);
    assert_error(lower(&surplus, config()), &["model.layers.1.input_layernorm.weight", "not used"]);
}

#[test]
fn tied_heads_and_biases() {
    let mut headless = llama();
    headless.retain(|(name, ..)| *name != "lm_head.weight");
    assert_error(lower(&headless, config()), &["tensor `lm_head.weight` is missing"]);
    let mut silent = config();
    silent.as_object_mut().expect("an object").remove("tie_word_embeddings");
    lower(&headless, silent.clone()).expect("a silent configuration takes a checkpoint without head");
    lower(&llama(), silent).expect("and one with");
    let mut tied = config();
    tied["tie_word_embeddings"] = true.into();
    lower(&llama(), tied).expect("a copy of a tied head is ignored");
    let mut biased = config();
    biased["mlp_bias"] = true.into();
    assert_error(lower(&llama(), biased), &["mlp.gate_proj.bias` is missing"]);
    lower(&set("model.layers.0.self_attn.rotary_emb.inv_freq", F32, &[8]), config())
        .expect("stored frequencies are ignored");
}

#[test]
fn quantized_tensors() {
    let matrix = |tensors: &[(&str, StoredType, &[usize])], settings: serde_json::Value| {
        let folder = folder();
        write_zeroes(&folder.path().join("model.safetensors"), tensors);
        let mut config = config();
        config["quantization"] = settings;
        let spec = ingot_models::config::ModelSpec::parse(Path::new("config.json"), &config)?;
        let checkpoint = Checkpoint::open(folder.path())?;
        WeightTable::new(&checkpoint, spec.quantization.as_ref())
            .matrix("p", 8, 64)
            .map(|matrix| matrix.format().to_string())
    };
    let plain = || serde_json::json!({"group_size": 64, "bits": 4});
    let named = |setting: serde_json::Value| serde_json::json!({"group_size": 64, "bits": 4, "p": setting});
    let (weight, scales, biases) =
        (("p.weight", U32, &[8, 8][..]), ("p.scales", F16, &[8, 2][..]), ("p.biases", F16, &[8, 2][..]));
    let all = [weight, scales, biases];
    assert_eq!(matrix(&all, plain()).expect("right"), "affine4g32_f16");
    assert_eq!(matrix(&all, named(serde_json::json!({"bits": 8}))).expect("shapes decide"), "affine4g32_f16");
    assert_eq!(matrix(&[("p.weight", F16, &[8, 64])], plain()).expect("no scales, no quantization"), "f16");
    assert_error(matrix(&all, named(false.into())), &["p.weight", "U32"]);
    let named_layer = named(serde_json::json!({"group_size": 32, "bits": 4}));
    assert_error(matrix(&[("p.weight", F16, &[8, 64])], named_layer), &["p.scales", "missing"]);
    assert_error(matrix(&all[..2], plain()), &["p.biases", "missing"]);
    assert_error(matrix(&[scales, biases], plain()), &["p.weight", "missing"]);
    assert_error(matrix(&[weight, scales, ("p.biases", Bf16, &[8, 2])], plain()), &["p.biases", "BF16", "F16"]);
    assert_error(matrix(&[weight, scales, ("p.biases", F16, &[8, 1])], plain()), &["p.biases", "[8, 1]", "[8, 2]"]);
    assert_error(matrix(&[weight, ("p.scales", F16, &[8, 3]), biases], plain()), &["p.weight", "3 scales a row"]);
    assert_error(matrix(&[weight, ("p.scales", F16, &[7, 2]), biases], plain()), &["p.scales", "[7, 2]", "[8, ...]"]);
    assert_error(matrix(&[("p.weight", U32, &[8, 9]), scales, biases], plain()), &["p.weight", "9 words a row"]);
    assert_error(matrix(&[("p.weight", I32, &[8, 8]), scales, biases], plain()), &["p.weight", "I32"]);
    assert_error(matrix(&[("p.weight", U32, &[64]), scales, biases], plain()), &["p.weight", "[64]"]);
    assert_eq!(matrix(&[weight, ("p.scales", U8, &[8, 2])], plain()).expect("right"), "mxfp4");
    assert_eq!(matrix(&[weight, ("p.scales", U8, &[8, 4])], plain()).expect("right"), "nvfp4");
    assert_eq!(matrix(&[("p.weight", U32, &[8, 16]), ("p.scales", U8, &[8, 2])], plain()).expect("right"), "mxfp8");
    let global = [weight, ("p.scales", U8, &[8, 4]), ("p.global_scale", F32, &[])];
    assert_eq!(matrix(&global, plain()).expect("right"), "nvfp4_global");
    let wrong = [weight, ("p.scales", U8, &[8, 4]), ("p.global_scale", F16, &[])];
    assert_error(matrix(&wrong, plain()), &["p.global_scale", "F16", "1 F32"]);
    let wrong = [weight, ("p.scales", U8, &[8, 2]), ("p.global_scale", F32, &[])];
    assert_error(matrix(&wrong, plain()), &["p.global_scale", "nvfp4", "mxfp4"]);
    assert_error(matrix(&[weight, ("p.scales", U8, &[8, 3])], plain()), &["p.weight", "3 scales of U8", "64 columns"]);
    assert_error(matrix(&[("p.weight", F32, &[8, 8]), ("p.scales", U8, &[8, 2])], plain()), &["p.weight", "F32"]);
    assert_error(matrix(&[weight, ("p.scales", I32, &[8, 2])], plain()), &["p.scales", "I32"]);
}
