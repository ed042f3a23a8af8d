//! Parsers of checkpoints, which come from strangers as a rule.

use ingot_ir::weight::Source;
use ingot_models::config::ModelSpec;
use ingot_models::formats::checkpoint::Checkpoint;
use ingot_models::formats::safetensors::Safetensors;
use ingot_models::text::detokenizer::Detokenizer;
use ingot_models::text::tokenizer::Tokenizer;
use ingot_models::weights::{Loaded, Matrix};
use ingot_models::{Files, Model, rope};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A configuration of every kind of entry, with a map of quantization.
pub const CONFIG: &str = r#"{
  "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
  "head_dim": 16, "intermediate_size": 32, "vocab_size": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 128,
  "hidden_act": "silu", "eos_token_id": [2, 3], "bos_token_id": 1, "tie_word_embeddings": true, "rope_theta": 10000.0,
  "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64},
  "quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4", "lm_head": false,
    "model.embed_tokens": {"bits": 8, "group_size": 32}, "model.layers.0.mlp.up_proj": {"mode": "nvfp4"}}
}"#;

/// A list of a folder's weight files.
pub const INDEX: &str = r#"{"metadata": {"total_size": 8}, "weight_map": {"a": "model.safetensors"}}"#;

/// Tokenizers of the kinds that there are.
const TOKENIZERS: [&str; 3] = [
    r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
  "padding": {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
    "pad_token": "<e>"},
  "added_tokens": [{"id": 0, "content": "<e>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false,
    "special": true}],
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": "x"},
    "content": "a"}]},
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+|\\s+"},
    "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
    "use_regex": false}]},
  "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<e>", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B",
    "type_id": 1}}], "special_tokens": {"<e>": {"id": "<e>", "ids": [0], "tokens": ["<e>"]}}},
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
    "fuse_unk": false, "byte_fallback": false, "ignore_merges": true, "vocab": {"<e>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4,
    "Ġab": 5, "1": 6}, "merges": [["a", "b"], ["Ġ", "ab"]]}}"#,
    r#"{"version": "1.0", "added_tokens": [], "normalizer": {"type": "Precompiled", "precompiled_charsmap": "TABLE"},
  "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
  "post_processor": null, "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"},
    "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": [["<unk>", 0.0], ["▁", -2.0], ["a", -1.5],
    ["ab", -1.0], ["<0x0A>", -9.0]]}}"#,
    r###"{"version": "1.0", "added_tokens": [], "normalizer": {"type": "BertNormalizer", "clean_text": true,
    "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}, "pre_tokenizer": {"type": "BertPreTokenizer"},
  "post_processor": {"type": "BertProcessing", "sep": ["[E]", 1], "cls": ["[E]", 1]},
  "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
  "model": {"type": "WordPiece", "unk_token": "[U]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
    "vocab": {"[U]": 0, "[E]": 1, "a": 2, "##b": 3}}}"###,
];

/// (name in GGUF, name in a folder, rows, columns or 0 for a vector, type's number, bytes of a row).
const TENSORS: [(&str, &str, u64, u64, u32, usize); 11] = [
    ("token_embd", "model.embed_tokens", 8, 32, 8, 34),
    ("output_norm", "model.norm", 32, 0, 0, 4),
    ("blk.0.attn_norm", "model.layers.0.input_layernorm", 32, 0, 0, 4),
    ("blk.0.attn_q", "model.layers.0.self_attn.q_proj", 32, 32, 2, 18),
    ("blk.0.attn_k", "model.layers.0.self_attn.k_proj", 16, 32, 3, 20),
    ("blk.0.attn_v", "model.layers.0.self_attn.v_proj", 16, 32, 20, 18),
    ("blk.0.attn_output", "model.layers.0.self_attn.o_proj", 32, 32, 6, 22),
    ("blk.0.ffn_norm", "model.layers.0.post_attention_layernorm", 32, 0, 1, 2),
    ("blk.0.ffn_gate", "model.layers.0.mlp.gate_proj", 32, 32, 7, 24),
    ("blk.0.ffn_up", "model.layers.0.mlp.up_proj", 32, 32, 39, 17),
    ("blk.0.ffn_down", "model.layers.0.mlp.down_proj", 32, 32, 30, 64),
];

/// Good inputs by target.
pub fn seeds() -> [(&'static str, Vec<Vec<u8>>); 6] {
    // SentencePiece's table of replacements: 1024 as four bytes, and so many that are zero.
    let table = format!("AAQAAA{}=", "A".repeat(1365));
    let map =
        serde_json::from_str(CONFIG).ok().and_then(|config: Value| config.get("quantization").map(Value::to_string));
    [
        ("quantization", map.into_iter().map(String::into_bytes).collect()),
        ("tokenizer", TOKENIZERS.map(|text| text.replace("TABLE", &table).into_bytes()).to_vec()),
        ("safetensors", vec![safetensors_file(), packed_file(false), packed_file(true)]),
        ("gguf", [false, true].map(gguf_file).to_vec()),
        ("config", vec![CONFIG.into()]),
        ("index", vec![INDEX.into()]),
    ]
}

/// A target by its name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    Some(match name {
        "safetensors" => safetensors,
        "gguf" => gguf,
        "config" => config,
        "quantization" => quantization,
        "index" => index,
        "tokenizer" => tokenizer,
        _ => return None,
    })
}

/// The model of [`CONFIG`] as a GGUF file; with `is_fused` queries, keys and values are one tensor.
fn gguf_file(is_fused: bool) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    let numbers = [
        ("llama.embedding_length", 32u32),
        ("llama.feed_forward_length", 32),
        ("llama.block_count", 1),
        ("llama.context_length", 128),
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 1),
        ("llama.rope.dimension_count", 16),
        ("tokenizer.ggml.bos_token_id", 1),
        ("tokenizer.ggml.eos_token_id", 2),
    ];
    let texts = [
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
        ("tokenizer.chat_template", "{{ messages[0].content }}"),
    ];
    let is_apart = |name: &str| ["attn_q", "attn_k", "attn_v"].iter().any(|part| name.ends_with(part));
    let tensors = TENSORS.map(|(name, _, n_rows, n_cols, kind, row_bytes)| (name, n_rows, n_cols, kind, row_bytes));
    let mut tensors: Vec<_> = tensors.into_iter().filter(|(name, ..)| !(is_fused && is_apart(name))).collect();
    tensors.extend(is_fused.then_some(("blk.0.attn_qkv", 64, 32, 2, 18)));
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((numbers.len() as u64 + texts.len() as u64 + 2).to_le_bytes());
    for (key, value) in texts {
        text(&mut out, key);
        out.extend(8u32.to_le_bytes());
        text(&mut out, value);
    }
    for (key, number) in numbers {
        text(&mut out, key);
        out.extend(4u32.to_le_bytes());
        out.extend(number.to_le_bytes());
    }
    let lists = [
        ("tokenizer.ggml.tokens", &["<e>", "<s>", "</s>", "a", "b", "ab", "c", "abc"][..]),
        ("tokenizer.ggml.merges", &["a b", "ab c"]),
    ];
    for (key, list) in lists {
        text(&mut out, key);
        out.extend([9u32, 8].iter().flat_map(|number| number.to_le_bytes()));
        out.extend((list.len() as u64).to_le_bytes());
        list.iter().for_each(|item| text(&mut out, item));
    }
    let mut at = 0u64;
    for (name, n_rows, n_cols, kind, row_bytes) in tensors {
        text(&mut out, &format!("{name}.weight"));
        let sizes = if n_cols == 0 { vec![n_rows] } else { vec![n_cols, n_rows] };
        out.extend((sizes.len() as u32).to_le_bytes());
        out.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(at.to_le_bytes());
        at = (at + n_rows * row_bytes as u64).next_multiple_of(32);
    }
    out.resize(out.len().next_multiple_of(32) + at as usize, 0x11);
    out
}

/// [`CONFIG`] with other words for how the model is quantized: those of AWQ or GPTQ.
fn packed_config(method: &str) -> String {
    let before = CONFIG.split_once("\"quantization\"").map_or("", |(before, _)| before);
    format!("{before}\"quantization_config\": {{\"quant_method\": \"{method}\", \"bits\": 4}}}}")
}

/// The model of [`CONFIG`] as weights of a folder: some quantized, some plain.
fn safetensors_file() -> Vec<u8> {
    file_of(|n_rows, n_cols, kind| match (n_cols, kind) {
        (0, _) => vec![("weight", "F32", vec![n_rows])],
        (_, 8 | 2 | 3) => vec![
            ("weight", "U32", vec![n_rows, if kind == 8 { 8 } else { 4 }]),
            ("scales", "F16", vec![n_rows, 1]),
            ("biases", "F16", vec![n_rows, 1]),
        ],
        (_, 6 | 39) => {
            vec![("weight", "U32", vec![n_rows, 4]), ("scales", "U8", vec![n_rows, if kind == 39 { 2 } else { 1 }])]
        }
        _ => vec![("weight", "BF16", vec![n_rows, n_cols])],
    })
}

/// The same as AWQ or GPTQ pack it, but for the embedding.
fn packed_file(is_gptq: bool) -> Vec<u8> {
    file_of(|n_rows, n_cols, kind| match (n_cols, is_gptq) {
        (0, _) => vec![("weight", "F16", vec![n_rows])],
        _ if kind == 8 => vec![("weight", "F16", vec![n_rows, n_cols])],
        (_, false) => vec![
            ("qweight", "I32", vec![n_cols, n_rows / 8]),
            ("qzeros", "I32", vec![1, n_rows / 8]),
            ("scales", "F16", vec![1, n_rows]),
        ],
        (_, true) => vec![
            ("qweight", "I32", vec![n_cols / 8, n_rows]),
            ("qzeros", "I32", vec![1, n_rows / 8]),
            ("scales", "F16", vec![1, n_rows]),
            ("g_idx", "I32", vec![n_cols]),
        ],
    })
}

/// Ending, type and shape of a tensor.
type Part = (&'static str, &'static str, Vec<u64>);

/// A safetensors file of [`TENSORS`], whose parts `parts` says of (rows, columns, type's number). Group numbers are zero.
fn file_of(parts: impl Fn(u64, u64, u32) -> Vec<Part>) -> Vec<u8> {
    let (mut header, mut data) = (String::from("{\"__metadata__\":{\"format\":\"mlx\"}"), Vec::new());
    for (_, name, n_rows, n_cols, kind, _) in TENSORS {
        for (ending, dtype, shape) in parts(n_rows, n_cols, kind) {
            let size = match dtype {
                "U8" => 1,
                "F16" | "BF16" => 2,
                _ => 4,
            };
            let at = data.len();
            let end = at + (shape.iter().product::<u64>() * size) as usize;
            header += &format!(
                ",\"{name}.{ending}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"
            );
            data.resize(end, if ending == "g_idx" { 0 } else { 0x11 });
        }
    }
    header.push('}');
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

/// Whatever a checkpoint says, its graph is one, and every weight of it is there in whole.
fn whole(model: &Model) {
    let Ok(graph) = model.graph() else { return };
    assert_eq!(graph.verify(), Ok(()));
    for (_, weight) in graph.weights.iter() {
        if matches!(weight.source, Source::Tensor(_)) {
            let loaded = model.weights().load(weight);
            assert!(loaded.is_ok(), "{loaded:?}");
            if let Ok(Loaded::Matrix(Matrix::Foreign(foreign))) = loaded {
                assert_eq!(foreign.rows(0..foreign.n_rows).n_rows, foreign.n_rows);
            }
        }
    }
}

fn in_folder(files: &BTreeMap<&str, &[u8]>, f: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no room for temporary files: {error}"));
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    f(folder.path());
}

/// Bytes that claim to be a safetensors file, alone and as a model's weights; of AWQ or GPTQ where its tensors are called so.
pub fn safetensors(bytes: &[u8]) {
    let has = |name: &str| bytes.windows(name.len()).any(|text| text == name.as_bytes());
    let config = match (has(".qweight"), has(".g_idx")) {
        (false, _) => CONFIG.to_owned(),
        (true, is_gptq) => packed_config(if is_gptq { "gptq" } else { "awq" }),
    };
    let files = BTreeMap::from([("config.json", config.as_bytes()), ("model.safetensors", bytes)]);
    in_folder(&files, |folder| {
        let Ok(file) = Safetensors::open(&folder.join("model.safetensors")) else { return };
        for tensor in file.tensors() {
            let n_numbers: usize = tensor.shape.iter().product();
            assert_eq!(tensor.bytes.len(), n_numbers * tensor.stored.n_bytes());
        }
        if let Ok(model) = Model::open(folder) {
            whole(&model);
        }
    });
}

/// Bytes that claim to be a GGUF file.
pub fn gguf(bytes: &[u8]) {
    in_folder(&BTreeMap::from([("model.gguf", bytes)]), |folder| {
        if let Ok(model) = Model::open(&folder.join("model.gguf")) {
            whole(&model);
        }
    });
}

/// A text that claims to be a configuration, alone and beside weights.
pub fn config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    let Ok(spec) = ModelSpec::parse(Path::new("config.json"), &value) else { return };
    assert_eq!(spec.n_heads % spec.n_kv_heads, 0);
    assert_eq!(rope::inv_freq(&spec.rope, spec.head_dim).len() as u32, spec.head_dim / 2);
    let weights = safetensors_file();
    in_folder(&BTreeMap::from([("config.json", bytes), ("model.safetensors", &weights[..])]), |folder| {
        if let Ok(model) = Model::open(folder) {
            whole(&model);
        }
    });
}

/// A text that claims to list a folder's weight files.
pub fn index(bytes: &[u8]) {
    let weights = b"\x2e\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    let mut weights = weights.to_vec();
    weights[0] = (weights.len() - 8) as u8;
    weights.extend([0; 4]);
    let files = BTreeMap::from([("model.safetensors", &weights[..]), ("model.safetensors.index.json", bytes)]);
    in_folder(&files, |folder| {
        if let Ok(checkpoint) = Checkpoint::open(folder) {
            assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a"]);
        }
    });
}

/// A text that claims to be a configuration's map of quantization, beside weights of several modes.
pub fn quantization(bytes: &[u8]) {
    let (Ok(mut config), Ok(map)) = (serde_json::from_str::<Value>(CONFIG), serde_json::from_slice(bytes)) else {
        return;
    };
    config["quantization"] = map;
    let (config, weights) = (config.to_string(), safetensors_file());
    let files = BTreeMap::from([("config.json", config.as_bytes()), ("model.safetensors", &weights[..])]);
    in_folder(&files, |folder| {
        if let Ok(model) = Model::open(folder) {
            whole(&model);
        }
    });
}

/// A text that claims to be a tokenizer.
pub fn tokenizer(bytes: &[u8]) {
    let files = BTreeMap::from([("tokenizer.json".to_owned(), bytes.to_vec())]);
    let Ok(tokenizer) = Tokenizer::load(&Files::held(Path::new("held"), files), &[]) else { return };
    for text in ["", "ab xb  1234\n", "<e> \u{e4}\u{301}\u{1f40b} ab"] {
        let Ok(ids) = tokenizer.encode(text, true) else { continue };
        let _ = tokenizer.decode(&ids, false);
        let mut stream = Detokenizer::new(true);
        let _ = ids.iter().try_for_each(|id| stream.push(&tokenizer, *id).map(drop));
        let _ = stream.finish(&tokenizer);
    }
}
