//! The crate against the golden files of `../shared` and against broken input.

mod bad_checkpoints;
mod bad_configs;
mod convert;
mod gguf;
mod gguf_files;
mod gguf_out;
mod gguf_settings;
mod golden;
mod golden_text;
mod grammar;
mod hub;
mod hub_gguf;
mod hub_pieces;
mod packed;
mod packing;
mod play_hub;
mod tokenizers;

use ingot_models::formats::safetensors::{StoredType, TensorDecl, write};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A golden file or folder; prints why a test does nothing where the files are absent.
fn golden(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden").join(name);
    if path.exists() {
        return Some(path);
    }
    let _ = writeln!(std::io::stderr(), "skipped: {} is absent", path.display());
    None
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("golden JSON parses")
}

/// A configuration that is right, to be spoilt.
fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 96, "vocab_size": 32, "rms_norm_eps": 1e-5, "max_position_embeddings": 128, "hidden_act": "silu",
        "eos_token_id": 2, "bos_token_id": 1, "tie_word_embeddings": false, "torch_dtype": "bfloat16"
    })
}

/// Writes tensors of zeroes.
fn write_zeroes(path: &Path, tensors: &[(&str, StoredType, &[usize])]) {
    let decls: Vec<_> = tensors
        .iter()
        .map(|(name, stored, shape)| TensorDecl { name: name.to_string(), stored: *stored, shape: shape.to_vec() })
        .collect();
    write(path, &BTreeMap::new(), &decls, |_, _| {}).expect("a temporary file can be written");
}

/// The message of an error, which must hold all of `parts`.
#[track_caller]
fn assert_error<T>(result: Result<T, ingot_models::Error>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("accepted; expected an error with {parts:?}"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}
