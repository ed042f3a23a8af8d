//! GGUF files of the architectures that no fixture is a file of: written here from fixtures' folders as llama.cpp's converter
//! writes them, they must compute what the folders do.

use super::support::{Device, devices, load};
use ingot_models::Model;
use ingot_models::config::{Architecture, ModelSpec};
use ingot_models::formats::gguf::Gguf;
use ingot_models::weights::Matrix;
use ingot_tests::gguf_file::GgufFile;
use ingot_tests::rng::Rng;
use ingot_tests::shared::shared;
use ingot_tests::tolerance::{CPU_LOGITS, relative_l2};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A fixture's folder, its configuration changed to one that a file can tell of: Gemma's files do not hold the factor on
/// scores, which is that of a head's size.
fn copy(source: &Path, out: &Path) {
    for entry in std::fs::read_dir(source).expect("a fixture").flatten() {
        std::fs::copy(entry.path(), out.join(entry.file_name())).expect("a copy");
    }
    let text = std::fs::read_to_string(source.join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    if config.get("query_pre_attn_scalar").is_some() {
        config["query_pre_attn_scalar"] = config["head_dim"].clone();
    }
    std::fs::write(out.join("config.json"), config.to_string()).expect("a file");
}

/// GGUF's name of a tensor of a folder.
fn name(tensor: &str, post_norms: bool) -> String {
    let mut name = tensor.replace("model.layers.", "blk.");
    for (ours, theirs) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", if post_norms { "post_attention_norm" } else { "ffn_norm" }),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("block_sparse_moe.gate", "ffn_gate_inp"),
        ("mlp.gate.", "ffn_gate_inp."),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(ours, theirs);
    }
    name
}

/// Rows of each head, even and odd ones in turn from its halves.
fn pair_rows(numbers: &[f32], n_cols: usize, head_dim: usize) -> Vec<f32> {
    let n_rows = numbers.len() / n_cols;
    let source = |row: usize| row / head_dim * head_dim + row % head_dim / 2 + row % 2 * (head_dim / 2);
    (0..n_rows).flat_map(|row| &numbers[source(row) * n_cols..][..n_cols]).copied().collect()
}

/// GGUF's name of the stack that a single expert's matrix belongs to, and the expert.
fn stack(tensor: &str) -> Option<(String, usize)> {
    let (module, expert) = tensor.split_once(".experts.")?;
    let (expert, part) = expert.split_once('.')?;
    let own = match part.strip_suffix(".weight")? {
        "w1" | "gate_proj" => "ffn_gate_exps",
        "w2" | "down_proj" => "ffn_down_exps",
        "w3" | "up_proj" => "ffn_up_exps",
        _ => return None,
    };
    let layer = module.strip_prefix("model.layers.")?.split('.').next()?;
    Some((format!("blk.{layer}.{own}.weight"), expert.parse().ok()?))
}

fn file(model: &Model, architecture: &str) -> GgufFile {
    let ModelSpec { n_layers, hidden_size, intermediate_size, n_heads, n_kv_heads, head_dim, scales, .. } = model.spec;
    let mut file = GgufFile::default();
    let key = |name: &str| format!("{architecture}.{name}");
    file.text("general.architecture", architecture);
    for (name, number) in [
        ("block_count", n_layers),
        ("context_length", model.spec.max_position_embeddings),
        ("embedding_length", hidden_size),
        ("feed_forward_length", intermediate_size),
        ("attention.head_count", n_heads),
        ("attention.head_count_kv", n_kv_heads),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
    ] {
        file.u32(&key(name), number);
    }
    file.f32(&key("attention.layer_norm_rms_epsilon"), model.spec.rms_norm_eps);
    file.f32(&key("rope.freq_base"), model.spec.rope.theta as f32);
    let windows: Vec<u32> = model.spec.windows.iter().map(|window| window.window).collect();
    if let Some(window) = windows.iter().find(|window| **window > 0) {
        file.u32(&key("attention.sliding_window"), *window);
    }
    if let Some(experts) = &model.spec.experts {
        file.u32(&key("expert_count"), experts.n_experts);
        file.u32(&key("expert_used_count"), experts.n_active);
        file.u32(&key("expert_feed_forward_length"), experts.intermediate_size);
    }
    match model.spec.architecture {
        Architecture::Gemma2 => {
            file.f32(&key("attn_logit_softcapping"), scales.attention_cap);
            file.f32(&key("final_logit_softcapping"), scales.logit_cap);
        }
        Architecture::Gemma3 => {
            let pattern = windows.iter().position(|window| *window == 0).expect("a layer that sees all") + 1;
            file.u32(&key("attention.sliding_window_pattern"), pattern as u32);
            if let ingot_models::config::RopeScaling::Linear { factor } = model.spec.rope.scaling {
                file.text(&key("rope.scaling.type"), "linear");
                file.f32(&key("rope.scaling.factor"), factor as f32);
            }
        }
        Architecture::Granite => {
            file.f32(&key("embedding_scale"), scales.embedding);
            file.f32(&key("attention.scale"), scales.attention);
            file.f32(&key("residual_scale"), scales.residual);
            file.f32(&key("logit_scale"), scales.logits.recip());
        }
        _ => {}
    }
    let is_gemma = architecture.starts_with("gemma");
    let is_paired = matches!(architecture, "llama" | "granite");
    // By stack and expert.
    let mut stacks: BTreeMap<(String, usize), (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for tensor in model.checkpoint.names() {
        let view = model.checkpoint.get(tensor).expect("it was named");
        let mut numbers = view.to_f32s().expect("floats");
        if let Some(place) = stack(tensor) {
            stacks.insert(place, (view.shape.to_vec(), numbers));
            continue;
        }
        if is_gemma && tensor.ends_with("norm.weight") {
            numbers.iter_mut().for_each(|number| *number += 1.0);
        }
        if is_paired && (tensor.contains("q_proj") || tensor.contains("k_proj")) {
            numbers = pair_rows(&numbers, view.shape[1], head_dim as usize);
        }
        let post_norms = matches!(model.spec.architecture, Architecture::Gemma2 | Architecture::Gemma3);
        file.tensor(&name(tensor, post_norms), view.shape, &numbers);
    }
    let names: BTreeSet<&String> = stacks.keys().map(|(name, _)| name).collect();
    for name in names {
        let experts: Vec<_> = stacks.iter().filter(|((own, _), _)| own == name).map(|(_, expert)| expert).collect();
        let shape = &experts[0].0;
        let numbers: Vec<f32> = experts.iter().flat_map(|(_, numbers)| numbers.iter().copied()).collect();
        file.tensor(name, &[experts.len(), shape[0], shape[1]], &numbers);
    }
    file
}

#[test]
fn files_compute_what_folders_do() {
    let names = [
        ("gemma3_text", "gemma3"),
        ("gemma3_text_scaled", "gemma3"),
        ("gemma2", "gemma2"),
        ("gemma", "gemma"),
        ("qwen3", "qwen3"),
        ("granite", "granite"),
        ("mistral", "llama"),
        ("mixtral", "llama"),
        ("qwen3_moe", "qwen3moe"),
    ];
    let ids: Vec<u32> = (0..70u32).map(|ix| (ix * ix * 7 + ix * 13 + 5) % 300).collect();
    for (fixture, architecture) in names {
        let Some(source) = shared(&format!("golden/{fixture}")) else { continue };
        let folder = tempfile::tempdir().expect("a folder");
        copy(&source, folder.path());
        let path = folder.path().join("written.gguf");
        let model = Model::open(folder.path()).expect("a checkpoint");
        file(&model, architecture).write(&path).expect("a file");
        let written = Model::open(&path).unwrap_or_else(|error| panic!("{fixture}: {error}"));
        let told = |spec: &ModelSpec| {
            let tied = spec.tie_word_embeddings;
            (spec.architecture, spec.windows.clone(), spec.rope, spec.hidden_act, tied, spec.experts.clone())
        };
        assert_eq!(told(&written.spec), told(&model.spec), "{fixture}");
        let cpu: &Device = &devices()[0];
        let logits = |path: &Path| load(path, cpu, |_| ()).logits(&ids).expect("logits").0;
        let error = relative_l2(&logits(&path), &logits(folder.path()));
        assert!(error <= CPU_LOGITS, "{fixture} as a file is off by {error:.1e}");
    }
}

/// Experts of the mixtures that are made of files below.
const N_EXPERTS: usize = 3;

/// Rows in another order for each expert.
fn turned<T: Copy>(rows: &[T], n_rows: usize, expert: usize) -> Vec<T> {
    let row = rows.len() / n_rows;
    (0..n_rows).flat_map(|ix| &rows[(ix + 5 * expert) % n_rows * row..][..row]).copied().collect()
}

/// The layer's MLP of a file as `N_EXPERTS` experts: its matrices, rows in other orders. `as_numbers` writes their numbers in place
/// of their blocks.
fn mixture(source: &Gguf, model: &Model, as_numbers: bool) -> GgufFile {
    let mut file = GgufFile::default();
    file.text("general.architecture", "llama");
    for (key, value) in source.metadata() {
        match (key.starts_with("llama."), value.as_u64(), value.as_f64()) {
            (true, Some(n), _) => file.u32(key, n as u32),
            (true, None, Some(n)) => file.f32(key, n as f32),
            _ => {}
        }
    }
    file.u32("llama.expert_count", N_EXPERTS as u32);
    file.u32("llama.expert_used_count", 2);
    for tensor in source.tensors() {
        let kind = KINDS.iter().find(|(name, _)| *name == tensor.stored.name()).expect("a type of the fixtures").1;
        let bytes = source.bytes(tensor);
        let Some((layer, part)) = tensor.name.split_once(".ffn_").filter(|(_, part)| !part.starts_with("norm")) else {
            file.blocks(&tensor.name, kind, &tensor.shape, bytes.to_vec());
            continue;
        };
        let part = part.strip_suffix(".weight").expect("a matrix");
        let (name, n_rows, n_cols) = (format!("{layer}.ffn_{part}_exps.weight"), tensor.shape[0], tensor.shape[1]);
        let shape = [N_EXPERTS, n_rows, n_cols];
        if as_numbers {
            let path = format!("{}.mlp.{part}_proj", layer.replace("blk", "model.layers"));
            let matrix = model.weights().matrix(&path, n_rows, n_cols).expect("a matrix");
            let mut numbers = vec![0.0; n_rows * n_cols];
            numbers.chunks_exact_mut(n_cols).enumerate().for_each(|(row, out)| matrix.read_row(row, out));
            let all: Vec<f32> = (0..N_EXPERTS).flat_map(|expert| turned(&numbers, n_rows, expert)).collect();
            file.tensor(&name, &shape, &all);
        } else {
            let all = (0..N_EXPERTS).flat_map(|expert| turned(bytes, n_rows, expert)).collect();
            file.blocks(&name, kind, &shape, all);
        }
    }
    let hidden = model.spec.hidden_size as usize;
    for layer in 0..model.spec.n_layers {
        let name = format!("blk.{layer}.ffn_gate_inp.weight");
        let router = Rng::named(&name, 1).numbers(N_EXPERTS * hidden, 0.3);
        file.tensor(&name, &[N_EXPERTS, hidden], &router);
    }
    file
}

/// Types of the fixtures by their numbers in files.
const KINDS: [(&str, u32); 12] = [
    ("F32", 0),
    ("F16", 1),
    ("Q4_0", 2),
    ("Q4_1", 3),
    ("Q5_0", 6),
    ("Q5_1", 7),
    ("Q8_0", 8),
    ("Q2_K", 10),
    ("Q3_K", 11),
    ("Q4_K", 12),
    ("Q5_K", 13),
    ("Q6_K", 14),
];

/// Experts in blocks compute what experts of the blocks' numbers do, and each expert of a stack has its own rows, to the bit.
#[test]
fn experts_of_every_kind_of_block() {
    let ids: Vec<u32> = (0..24u32).map(|ix| (ix * ix * 7 + ix * 13 + 5) % 300).collect();
    for name in ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k"] {
        let stem = if name.contains('k') { "llama256" } else { "llama" };
        let Some(path) = shared(&format!("golden/gguf/{stem}-{name}.gguf")) else { continue };
        let (source, model) = (Gguf::open(&path).expect("a file"), Model::open(&path).expect("a model"));
        let folder = tempfile::tempdir().expect("a folder");
        let write = |as_numbers: bool| {
            let path = folder.path().join(format!("{as_numbers}.gguf"));
            mixture(&source, &model, as_numbers).write(&path).expect("a file");
            path
        };
        let (blocks, numbers) = (write(false), write(true));
        let stacked = Model::open(&blocks).unwrap_or_else(|error| panic!("{name}: {error}"));
        let n = model.spec.hidden_size as usize;
        for part in ["gate_proj", "up_proj", "down_proj"] {
            let stack = format!("model.layers.1.block_sparse_moe.switch_mlp.{part}");
            let stack = stacked.weights().matrix(&stack, N_EXPERTS * n, n).expect("a stack");
            let single = model.weights().matrix(&format!("model.layers.1.mlp.{part}"), n, n).expect("a matrix");
            assert_eq!(stack.format(), single.format(), "{name}");
            let read = |matrix: &Matrix<'_>, row: usize| {
                let mut out = vec![0.0; n];
                matrix.read_row(row, &mut out);
                out
            };
            for row in 0..N_EXPERTS * n {
                let (expert, at) = (row / n, row % n);
                assert_eq!(read(&stack, row), read(&single, (at + 5 * expert) % n), "{name}: {part}, row {row}");
            }
        }
        let cpu: &Device = &devices()[0];
        let logits = |path: &Path| load(path, cpu, |_| ()).logits(&ids).expect("logits").0;
        let error = relative_l2(&logits(&blocks), &logits(&numbers));
        assert!(error <= CPU_LOGITS, "{name}: experts in blocks are off by {error:.1e}");
    }
}

/// The memory of this process in which a file is mapped, in bytes.
#[cfg(target_os = "linux")]
fn resident_bytes(file: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("the process' maps");
    let (mut is_file, mut sum) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if is_file => sum += words.next().and_then(|n| n.parse::<usize>().ok()).expect("a size") << 10,
            Some(range) if range.contains('-') => is_file = line.ends_with(file.to_str().expect("UTF-8")),
            _ => {}
        }
    }
    sum
}

/// What the processor has made of a file's blocks is in memory, and the blocks are not.
#[cfg(target_os = "linux")]
#[test]
fn blocks_are_in_memory_once() {
    let (hidden, inner, n_vocab) = (1024usize, 4096usize, 2048usize);
    let mut file = GgufFile::default();
    file.text("general.architecture", "llama");
    for (name, number) in [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", hidden),
        ("feed_forward_length", inner),
        ("attention.head_count", 8),
    ] {
        file.u32(&format!("llama.{name}"), number as u32);
    }
    let mut random = Rng::new(3);
    let mut matrix = |file: &mut GgufFile, name: &str, n_rows: usize, n_cols: usize| {
        // Q4_0: a scale of 1/256, then 32 codes.
        let block = |bytes: &mut [u8]| {
            bytes[..2].copy_from_slice(&0x1c00u16.to_le_bytes());
            bytes[2..10].copy_from_slice(&random.next_u64().to_le_bytes());
            bytes[10..].copy_from_slice(&random.next_u64().to_le_bytes());
        };
        let mut bytes = vec![0; n_rows * n_cols / 32 * 18];
        bytes.chunks_exact_mut(18).for_each(block);
        file.blocks(name, 2, &[n_rows, n_cols], bytes);
    };
    matrix(&mut file, "token_embd.weight", n_vocab, hidden);
    file.tensor("output_norm.weight", &[hidden], &vec![1.0; hidden]);
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            matrix(&mut file, &name(part), hidden, hidden);
        }
        matrix(&mut file, &name("ffn_gate"), inner, hidden);
        matrix(&mut file, &name("ffn_up"), inner, hidden);
        matrix(&mut file, &name("ffn_down"), hidden, inner);
        ["attn_norm", "ffn_norm"].iter().for_each(|part| file.tensor(&name(part), &[hidden], &vec![1.0; hidden]));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("blocks.gguf");
    file.write(&path).expect("a file");
    let n_bytes = std::fs::metadata(&path).expect("a file").len() as usize;
    let mut model = load(&path, &devices()[0], |_| ());
    let (logits, _) = model.logits(&[1, 2, 3]).expect("logits");
    assert!(logits.iter().all(|logit| logit.is_finite()));
    let resident = resident_bytes(&path);
    // Pages are mapped some at a time: next to each tensor a few of others come along.
    assert!(resident < n_bytes / 2, "of {n_bytes} bytes {resident} are in memory twice");
    let (opened, mapped) = (Gguf::open(&path).expect("a file"), resident_bytes(&path));
    let sum: u64 = opened.tensors().iter().flat_map(|tensor| opened.bytes(tensor)).map(|byte| u64::from(*byte)).sum();
    assert!(sum > 0 && resident_bytes(&path) - mapped > n_bytes / 2, "mapped files are seen");
}
