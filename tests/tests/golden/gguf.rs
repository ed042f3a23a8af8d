//! GGUF files of the architectures that no fixture is a file of: written here from fixtures' folders as llama.cpp's converter
//! writes them, they must compute what the folders do.

use super::support::{Device, devices, load};
use ingot_models::Model;
use ingot_models::config::{Architecture, ModelSpec};
use ingot_tests::gguf_file::GgufFile;
use ingot_tests::shared::shared;
use ingot_tests::tolerance::{CPU_LOGITS, relative_l2};
use serde_json::Value;
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
    for tensor in model.checkpoint.names() {
        let view = model.checkpoint.get(tensor).expect("it was named");
        let mut numbers = view.to_f32s().expect("floats");
        if is_gemma && tensor.ends_with("norm.weight") {
            numbers.iter_mut().for_each(|number| *number += 1.0);
        }
        if architecture == "granite" && (tensor.contains("q_proj") || tensor.contains("k_proj")) {
            numbers = pair_rows(&numbers, view.shape[1], head_dim as usize);
        }
        let post_norms = matches!(model.spec.architecture, Architecture::Gemma2 | Architecture::Gemma3);
        file.tensor(&name(tensor, post_norms), view.shape, numbers);
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
    ];
    let ids: Vec<u32> = (0..70u32).map(|ix| (ix * ix * 7 + ix * 13 + 5) % 300).collect();
    for (fixture, architecture) in names {
        let Some(source) = shared("golden").map(|golden| golden.join(fixture)) else { return };
        let folder = tempfile::tempdir().expect("a folder");
        copy(&source, folder.path());
        let path = folder.path().join("written.gguf");
        let model = Model::open(folder.path()).expect("a checkpoint");
        file(&model, architecture).write(&path).expect("a file");
        let written = Model::open(&path).unwrap_or_else(|error| panic!("{fixture}: {error}"));
        let told = |spec: &ModelSpec| (spec.windows.clone(), spec.rope, spec.hidden_act, spec.tie_word_embeddings);
        assert_eq!(told(&written.spec), told(&model.spec), "{fixture}");
        let cpu: &Device = &devices()[0];
        let logits = |path: &Path| load(path, cpu, |_| ()).logits(&ids).expect("logits").0;
        let error = relative_l2(&logits(&path), &logits(folder.path()));
        assert!(error <= CPU_LOGITS, "{fixture} as a file is off by {error:.1e}");
    }
}
