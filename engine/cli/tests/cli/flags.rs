//! Flags that do nothing in silence nowhere: they are obeyed, or refused.

use super::{fail, ingot, json, on_cpu, succeed};

const PROMPT: [&str; 6] = ["generate", "-p", "Tell me a story.", "--json", "-m", "4"];

#[test]
fn tiles_that_cannot_be_taken_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ingot");
    let path = path.to_str().unwrap();
    succeed(ingot(&["compile", "ingot-tales-1m", "--target", "cpu", "-o", path]));
    let with = |flags: &[&str]| ingot(&[&PROMPT[..], &["--model", path], flags].concat());
    for tiles in ["/nonexistent", "builtin"] {
        fail(with(&["--tiles", tiles]), 1, &["kernels of an artifact are fixed", "--tiles"]);
    }
    succeed(with(&["--tiles", "stored"]));
    // The processor has no tiles, but a file that is none is no file of tiles there either.
    fail(on_cpu(&[&PROMPT[..], &["--tiles", "/nonexistent"]].concat()), 1, &["/nonexistent"]);
}

#[test]
fn ids_have_no_chat_template() {
    for flags in [&["--chat-template-config", "{}"][..], &["--use-default-chat-template"]] {
        let command = ingot(&[&["generate", "--prompt-token-ids", "1"], flags].concat());
        fail(command, 2, &["--prompt-token-ids", "cannot be used with", flags[0]]);
    }
}

#[test]
fn how_codes_are_kept_matters_only_where_there_are_codes() {
    let ids = |flags: &[&str]| json(on_cpu(&[&PROMPT[..], flags].concat()))["token_ids"].clone();
    assert_eq!(ids(&["--kv-group-size", "32", "--quantized-kv-start", "5000"]), ids(&[]));
}
