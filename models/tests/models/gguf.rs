//! GGUF files: blocks taken apart, whole files, broken files.

use crate::{assert_error, golden, read_json};
use ingot_ir::weight::{Format, Part, ScaleType};
use ingot_models::convert::{ConvertOptions, convert};
use ingot_models::formats::foreign::Rows;
use ingot_models::formats::gguf::blocks::{Stored, format_of, part_bytes, take_apart};
use ingot_models::formats::gguf::{Gguf, check_header};
use ingot_models::formats::safetensors::Safetensors;
use ingot_models::text::chat_template::ChatTemplate;
use ingot_models::text::tokenizer::Tokenizer;
use ingot_models::weights::Matrix;
use ingot_models::{Error, Model};
use std::path::Path;

/// The numbers of blocks, by way of what they become.
fn numbers(stored: Stored, bytes: &[u8]) -> Vec<f32> {
    let format = format_of(stored, bytes).expect("blocks");
    let n_blocks = bytes.len() / stored.block_bytes();
    let part = |part: Part| {
        let mut out = vec![0; n_blocks * part_bytes(stored, format, part)];
        take_apart(stored, format, part, bytes, &mut out);
        out
    };
    let (values, scales, biases) = (part(Part::Values), part(Part::Scales), part(Part::Biases));
    let n_cols = n_blocks * stored.block_len();
    let row = format.row_parts(n_cols as u32);
    assert_eq!([&values, &scales, &biases].map(|part| part.len() as u64), [row.values, row.scales, row.biases]);
    let rows = Rows { format, n_rows: 1, n_cols, values, scales, biases };
    let mut out = vec![0.0; n_cols];
    rows.view().read_row(0, &mut out);
    out
}

#[test]
fn every_block_type_has_the_numbers_of_ggml() {
    let Some(folder) = golden("gguf") else { return };
    let vectors =
        Safetensors::open(&folder.join("dequant_vectors.safetensors")).unwrap_or_else(|error| panic!("{error}"));
    let types =
        ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"];
    for name in types {
        let stored = Stored::parse(name).unwrap_or_else(|| panic!("{name} is not known"));
        let raw = vectors.get(&format!("{name}.raw")).expect("blocks").bytes;
        let expected = vectors.get(&format!("{name}.f32")).expect("numbers").to_f32s().expect("floats");
        let found = numbers(stored, raw);
        let blocks = found.chunks(stored.block_len()).zip(expected.chunks(stored.block_len()));
        for (found, expected) in blocks {
            let largest = expected.iter().fold(0.0f32, |most, number| most.max(number.abs()));
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() <= 1e-6 * largest, "{name}: {f} is not {e}");
            }
        }
    }
}

/// A bias of -128 scales that f16 has no room for.
#[test]
fn large_scales_keep_their_numbers() {
    let mut block = half::f16::from_f32(1000.0).to_le_bytes().to_vec();
    block.extend((0..32u8).map(|ix| ix.wrapping_mul(8)));
    let format = format_of(Stored::Q8_0, &block).expect("blocks");
    assert_eq!(format, Format::Affine { bits: 8, group: 32, scales: ScaleType::F32 });
    let expected: Vec<f32> = (0..32u8).map(|ix| f32::from(ix.wrapping_mul(8) as i8) * 1000.0).collect();
    assert_eq!(numbers(Stored::Q8_0, &block), expected);
}

#[test]
fn a_file_brings_tokenizer_and_template() {
    let (Some(file), Some(folder)) = (golden("gguf/llama-q4_0.gguf"), golden("tokenizer")) else { return };
    let model = Model::open(&file).unwrap_or_else(|error| panic!("{error}"));
    // The file tells of `<|im_end|>` alone; `<|endoftext|>` ends a text whatever it says.
    assert_eq!(model.spec.eos_ids, [0, 2]);
    let tokenizer = Tokenizer::load(&model.files, &[]).expect("a tokenizer");
    for case in read_json(&folder.join("cases.json"))["cases"].as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        let ids: Vec<u64> = case["ids"].as_array().expect("ids").iter().filter_map(|id| id.as_u64()).collect();
        let found = tokenizer.encode(text, false).expect("encodes");
        assert_eq!(found.iter().map(|id| u64::from(*id)).collect::<Vec<_>>(), ids, "{text:?}");
    }
    assert!(ChatTemplate::load(&model.files).expect("readable").is_some());
}

/// Blocks that MLX has a form for go to a folder and nothing is lost.
#[test]
fn files_become_folders_without_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["llama-q4_0", "llama-q4_1", "llama-q8_0", "llama-q5_1", "llama256-q4_k_m"] {
        let Some(file) = golden(&format!("gguf/{name}.gguf")) else { continue };
        let out = folder.path().join(name);
        convert(&file, &out, &ConvertOptions::default(), &mut |_, _| true).unwrap_or_else(|error| panic!("{error}"));
        let (before, after) = (Model::open(&file).expect("opens"), Model::open(&out).expect("opens"));
        Tokenizer::load(&after.files, &[]).expect("the tokenizer went along");
        let width = before.spec.hidden_size as usize;
        let of = |model: &Model| -> (String, Vec<f32>) {
            let matrix = model.weights().matrix("model.layers.1.mlp.down_proj", width, width).expect("a matrix");
            let mut numbers = vec![0.0; width * width];
            numbers.chunks_exact_mut(width).enumerate().for_each(|(row, out)| matrix.read_row(row, out));
            (matrix.format().to_string(), numbers)
        };
        let ((format, numbers), (kept, same)) = (of(&before), of(&after));
        if name == "llama256-q4_k_m" {
            // What MLX has no form for becomes bf16.
            assert_eq!((format.as_str(), kept.as_str()), ("q6_k", "bf16"));
            continue;
        }
        assert_eq!((format, numbers), (kept, same), "{name}");
    }
}

#[test]
fn rows_of_queries_and_keys_are_put_in_order() {
    let (Some(file), Some(folder)) = (golden("gguf/llama-f16.gguf"), golden("llama")) else { return };
    let (file, folder) = (Model::open(&file).expect("opens"), Model::open(&folder).expect("opens"));
    for (path, n_rows) in [("self_attn.q_proj", 128), ("self_attn.k_proj", 64), ("self_attn.v_proj", 64)] {
        let path = format!("model.layers.1.{path}");
        let matrix = |model: &Model| model.weights().matrix(&path, n_rows, 128).map(|matrix| matrix.shape());
        assert_eq!(matrix(&file).expect("a matrix"), matrix(&folder).expect("a matrix"));
        let (a, b) = (file.weights().matrix(&path, n_rows, 128), folder.weights().matrix(&path, n_rows, 128));
        let (a, b): (Matrix<'_>, Matrix<'_>) = (a.expect("a matrix"), b.expect("a matrix"));
        let (mut of_file, mut of_folder) = (vec![0.0; 128], vec![0.0; 128]);
        for row in 0..n_rows {
            a.read_row(row, &mut of_file);
            b.read_row(row, &mut of_folder);
            // The file's were rounded to f16.
            of_folder.iter_mut().for_each(|number| *number = half::f16::from_f32(*number).to_f32());
            assert_eq!(of_file, of_folder, "{path}, row {row}");
        }
    }
}

/// A file in parts of a few bytes.
struct Maker(Vec<u8>);

impl Maker {
    fn new(n_tensors: u64, n_settings: u64) -> Self {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(n_tensors.to_le_bytes());
        bytes.extend(n_settings.to_le_bytes());
        Self(bytes)
    }
    fn text(mut self, text: &str) -> Self {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }
    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }
    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }
    fn open(self, path: &Path) -> Result<Gguf, Error> {
        std::fs::write(path, self.0).expect("a temporary file");
        Gguf::open(path)
    }
}

#[test]
fn broken_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    let open = |maker: Maker| maker.open(&path);
    assert_error(open(Maker(Vec::new())), &["model.gguf", "0 bytes"]);
    assert_error(open(Maker(b"GGML____".to_vec())), &["GGUF"]);
    assert_error(open(Maker::new(u64::MAX, 0)), &["18446744073709551615 tensors"]);
    assert_error(open(Maker::new(0, 1 << 40)), &["settings"]);
    assert_error(open(Maker::new(0, 1).text("a").u32(8).u64(1 << 60)), &["characters"]);
    assert_error(open(Maker::new(0, 1).text("a").u32(99).u64(0).u64(0)), &["`a`", "type 99"]);
    assert_error(open(Maker::new(0, 1).text("a").u32(9).u32(4).u64(1 << 33).u64(0)), &["`a`", "values"]);
    assert_error(open(Maker::new(0, 2).text("a").u32(4).u32(1).text("a").u32(4).u32(1)), &["`a`", "twice"]);
    let nested = (0..6).fold(Maker::new(0, 1).text("a").u32(9), |maker, _| maker.u32(9).u64(1)).u64(0).u64(0);
    assert_error(open(nested), &["nested too deeply"]);
    let aligned = Maker::new(0, 1).text("general.alignment").u32(4).u32(3);
    assert_error(open(aligned), &["general.alignment"]);
    let tensor = |n_dims: u32, sizes: &[u64], kind: u32, offset: u64| {
        let maker = sizes.iter().fold(Maker::new(1, 0).text("t").u32(n_dims), |maker, size| maker.u64(*size));
        maker.u32(kind).u64(offset).u64(0).u64(0).u64(0).u64(0)
    };
    assert_error(open(tensor(9, &[1], 0, 0)), &["`t`", "9 dimensions"]);
    assert_error(open(tensor(1, &[1 << 40], 0, 0)), &["`t`", "past the end"]);
    assert_error(open(tensor(2, &[1 << 40, 1 << 40], 0, 0)), &["`t`", "past the end"]);
    assert_error(open(tensor(1, &[2], 0, u64::MAX)), &["`t`", "past the end"]);
    assert_error(open(tensor(1, &[31], 2, 0)), &["`t`", "rows of 31", "Q4_0"]);
    assert!(open(tensor(1, &[2], 0, 0)).is_ok());
    assert_error(open(tensor(1, &[1 << 40], 0, 0)), &["the file is damaged, fetch it again"]);
    // What is whole and of another kind is not called damaged.
    for (maker, parts) in [
        (Maker(b"GGUF\x01\0\0\0".to_vec()), &["version 1", "2 and 3 are", "convert"][..]),
        (Maker(b"GGUF\0\0\0\x03".to_vec()), &["big endian", "little endian file"]),
        (Maker(b"GGUF\0\0\0\x02".to_vec()), &["big endian"]),
        (tensor(1, &[4], 16, 0), &["`t`", "IQ2_XXS", "not supported", "Q6_K, IQ4_NL", "Q4_K_M"]),
        (tensor(1, &[4], 77, 0), &["`t`", "type 77"]),
    ] {
        let error = open(maker).expect_err("is not read");
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert_error(Err::<(), _>(error), parts);
    }
    // Every beginning of a file ends in an error, not in a panic.
    let whole = tensor(1, &[2], 0, 0).0;
    (0..whole.len() - 32).for_each(|n| assert!(check_header(&whole[..n]).is_err(), "{n} bytes"));
}

/// What is named as a GGUF file, and a folder of such files.
#[test]
fn names_of_files_tell_what_they_should_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, "<html>").expect("a temporary file");
    assert_error(Model::open(&path), &["model.gguf", "does not begin with `GGUF`", "fetch it again"]);
    assert_error(Model::open(folder.path()), &["no config.json", "name one of them itself, e.g. model.gguf"]);
}

#[test]
fn files_of_other_models_are_named_as_such() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    let open = |maker: Maker| {
        std::fs::write(&path, maker.0).expect("a temporary file");
        Model::open(&path)
    };
    let other = Maker::new(0, 1).text("general.architecture").u32(8).text("mamba");
    assert_error(open(other), &["mamba", "llama", "qwen2"]);
    let bare = Maker::new(0, 1).text("general.architecture").u32(8).text("llama");
    assert_error(open(bare), &["llama.embedding_length", "absent"]);
}
