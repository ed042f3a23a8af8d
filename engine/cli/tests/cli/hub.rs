//! Models of a hub on the command line, and `ingot models`. The hub is one that the test plays.

use super::play_hub::{COMMIT, PlayHub, Trouble};
use super::{STORY, fail, ingot, json, run, succeed, text};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

struct Scene {
    hub: Arc<PlayHub>,
    home: TempDir,
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name)
}

fn scene() -> Scene {
    Scene { hub: PlayHub::of_folder(&shipped("ingot-tales-14m")), home: tempfile::tempdir().unwrap() }
}

impl Scene {
    fn ingot(&self, args: &[&str]) -> Command {
        let mut command = ingot(args);
        for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.hub.endpoint).env("HF_HOME", self.home.path());
        command
    }
    fn cache(&self) -> PathBuf {
        self.home.path().join("hub")
    }
    /// A model in the cache as another tool would have left it.
    fn add(&self, name: &str, files: &[(&str, &str)]) {
        let folder = self.cache().join(format!("models--{}", name.replace('/', "--")));
        let snapshot = folder.join("snapshots").join(COMMIT);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs/main"), COMMIT).unwrap();
        for (name, text) in files {
            std::fs::write(snapshot.join(name), text).unwrap();
        }
    }
}

const GENERATE: [&str; 9] = ["generate", "--device", "cpu", "-p", STORY, "-m", "8", "--verbose", "false"];

#[test]
fn every_command_takes_a_model_of_the_hub() {
    let scene = scene();
    let expected = succeed(ingot(&GENERATE));
    let named = [&GENERATE[..], &["--model", "owner/tiny"]].concat();
    assert_eq!(succeed(scene.ingot(&named)), expected);
    let n_requests = scene.hub.seen().len();
    assert!(n_requests > 1);
    assert_eq!(succeed(scene.ingot(&named)), expected);
    assert_eq!(scene.hub.seen().len(), 1, "nothing is fetched twice");
    assert_eq!(succeed(scene.ingot(&[&named[..], &["--offline"]].concat())), expected);
    let mut offline = scene.ingot(&named);
    offline.env("HF_HUB_OFFLINE", "1");
    assert_eq!(succeed(offline), expected);

    let out = scene.home.path().join("tiny.ingot");
    let out = out.to_str().unwrap();
    let logits = scene.home.path().join("logits.safetensors");
    let logits = logits.to_str().unwrap();
    let commit = format!("owner/tiny@{COMMIT}");
    for args in [
        &["explain", "owner/tiny", "--offline", "--target", "cpu"][..],
        &["compile", "owner/tiny@main", "--offline", "--target", "cpu", "-o", out],
        &["logits", "--device", "cpu", "--model", &commit, "--token-ids", "1", "-o", logits],
        &["bench", "owner/tiny", "--offline", "--device", "cpu", "-p", "8", "-g", "2", "-r", "1"],
        &["profile", "owner/tiny", "--offline", "--device", "cpu"],
        &["chat", "--model", "owner/tiny", "--offline", "--device", "cpu"],
    ] {
        succeed(scene.ingot(args));
    }
    assert_eq!(scene.hub.seen().len(), 0, "offline, and for a commit that is there, no hub is asked");
    assert_eq!(succeed(ingot(&[&GENERATE[..], &["--model", out]].concat())), expected);
}

#[test]
fn what_the_hub_refuses_is_one_line_with_advice() {
    let scene = scene();
    let named = [&GENERATE[..], &["--model", "owner/tiny"]].concat();
    let offline = scene.ingot(&[&named[..], &["--offline"]].concat());
    fail(offline, 1, &["owner/tiny is not in the cache", "--offline", scene.cache().to_str().unwrap()]);
    let other = [&GENERATE[..], &["--model", "owner/other"]].concat();
    fail(scene.ingot(&other), 1, &["no file or folder owner/other", "no such model", "HF_TOKEN"]);
    scene.hub.trouble("/resolve/", 1, Trouble::Status(401, &[("x-error-code", "GatedRepo")]));
    fail(scene.ingot(&named), 1, &["gated", "accept the terms", "hf auth login"]);
    scene.hub.trouble("/api/models", 1, Trouble::Status(401, &[]));
    let mut with_token = scene.ingot(&named);
    with_token.env("HF_TOKEN", "hf_secret");
    fail(with_token, 1, &["refuses the token from HF_TOKEN"]);
    // A path that is meant as one is not looked for.
    scene.hub.seen();
    fail(scene.ingot(&[&GENERATE[..], &["--model", "./owner/other"]].concat()), 1, &["no such folder"]);
    fail(scene.ingot(&[&GENERATE[..], &["--model", "owner/other.ingot"]].concat()), 1, &["no such folder"]);
    assert_eq!(scene.hub.seen(), []);
}

#[test]
fn a_copy_in_the_cache_serves_while_the_hub_is_away() {
    let scene = scene();
    let named = [&GENERATE[..], &["--model", "owner/tiny"]].concat();
    let expected = succeed(scene.ingot(&named));
    let mut away = scene.ingot(&named);
    away.env("HF_ENDPOINT", "http://127.0.0.1:9");
    let output = run(away);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), expected));
    let note = text(&output.stderr);
    assert!(note.starts_with("note: ") && note.contains("127.0.0.1:9") && note.lines().count() == 1, "{note}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_a_fetch_and_keeps_what_has_arrived() {
    let scene = scene();
    // Silence for as long as a busy machine needs to send the signal.
    scene.hub.trouble(&scene.hub.etag("model.safetensors"), 1, Trouble::Pause(500_000));
    scene.hub.trouble(&scene.hub.etag("model.safetensors"), 50, Trouble::Pause(0));
    let named = [&GENERATE[..], &["--model", "owner/tiny"]].concat();
    let mut command = scene.ingot(&named);
    command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let part = scene.cache().join("models--owner--tiny/blobs").join(scene.hub.etag("model.safetensors"));
    let part = part.with_extension("incomplete");
    let arrived = || std::fs::metadata(&part).map_or(0, |meta| meta.len());
    while arrived() < 500_000 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{message}");
    assert!(message.contains("model.safetensors: stopped") && message.contains("again to go on"), "{message}");
    assert_eq!(arrived(), 500_000);
    scene.hub.seen();
    succeed(scene.ingot(&named));
    assert!(
        scene
            .hub
            .seen()
            .iter()
            .any(|seen| seen.range.as_deref().is_some_and(|range| range.starts_with("bytes=500000-")))
    );
}

#[test]
fn a_gguf_file_of_the_hub_runs() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("tales.Q8_0.gguf");
    let tales = shipped("ingot-tales-1m");
    succeed(ingot(&["convert", "--hf-path", tales.to_str().unwrap(), "--gguf-path", path.to_str().unwrap()]));
    let scene = Scene { hub: PlayHub::start(&[("tales.Q8_0.gguf", &std::fs::read(&path).unwrap())]), home };
    let expected = succeed(ingot(&[&GENERATE[..], &["--model", path.to_str().unwrap()]].concat()));
    for name in ["owner/tiny", "owner/tiny:q8_0"] {
        assert_eq!(succeed(scene.ingot(&[&GENERATE[..], &["--model", name]].concat())), expected, "{name}");
    }
    // Neither what another tool has fetched beside it, nor what sees for it, is judged in its stead.
    scene.add("owner/tiny", &[("config.json", r#"{"model_type": "mystery"}"#), ("mmproj-F16.gguf", "eyes")]);
    let listed = succeed(scene.ingot(&["models", "list"]));
    let line = listed.lines().next().unwrap();
    assert!(line.starts_with("owner/tiny ") && line.contains(" GGUF ") && line.ends_with(" llama"), "{listed}");
    fail(scene.ingot(&[&GENERATE[..], &["--model", "owner/tiny:Q2_K"]].concat()), 1, &["tales.Q8_0.gguf"]);
    let removed = succeed(scene.ingot(&["models", "rm", "owner/tiny:Q8_0"]));
    assert!(removed.starts_with("owner/tiny:Q8_0 removed, "), "{removed}");
    succeed(scene.ingot(&["models", "rm", "owner/tiny"]));
    assert!(succeed(scene.ingot(&["models", "list"])).starts_with("0 models"));
}

#[test]
fn models_are_listed_shown_and_removed() {
    let scene = scene();
    assert!(succeed(scene.ingot(&["models", "list"])).starts_with("0 models"));
    succeed(scene.ingot(&["explain", "owner/tiny", "--target", "cpu"]));
    let index = r#"{"weight_map": {"x": "model-00001-of-00001.safetensors"}}"#;
    scene.add("some/strange", &[("config.json", r#"{"model_type": "mystery"}"#), ("model.safetensors", "")]);
    scene.add("some/half", &[("config.json", "{}"), ("model.safetensors.index.json", index)]);
    scene.add("some/llama-GGUF", &[("llama.Q4_0.gguf", "GGUF")]);
    let listed = succeed(scene.ingot(&["models", "list"]));
    let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{listed}"));
    assert!(line("owner/tiny ").ends_with("  llama") && line("owner/tiny ").contains("8.3 MB"), "{listed}");
    assert!(line("some/strange ").contains("does not run") && line("some/strange ").contains("`mystery`"), "{listed}");
    assert!(line("some/half ").contains("does not run"), "{listed}");
    assert!(line("some/llama-GGUF ").contains("GGUF") && listed.contains("4 models, "), "{listed}");
    assert!(!listed.contains(&format!("{COMMIT}/config.json")), "the folder's name is not repeated: {listed}");

    let all = json(scene.ingot(&["models", "list", "--json"]));
    let names: Vec<&str> = all.as_array().unwrap().iter().map(|model| model["model"].as_str().unwrap()).collect();
    assert_eq!(names, ["owner/tiny", "some/half", "some/llama-GGUF", "some/strange"]);
    let one = json(scene.ingot(&["models", "show", "owner/tiny", "--json"]));
    assert_eq!(one, all[0]);
    let snapshot = &one["snapshots"][0];
    assert_eq!((&snapshot["commit"], &snapshot["names"][0]), (&COMMIT.into(), &"main".into()));
    assert_eq!((&snapshot["runs"], &snapshot["architecture"]), (&true.into(), &"llama".into()));
    assert_eq!(snapshot["format"], "4-bit MLX");
    let weights =
        snapshot["files"].as_array().unwrap().iter().find(|file| file["name"] == "model.safetensors").unwrap();
    assert_eq!(weights["bytes"], std::fs::metadata(shipped("ingot-tales-14m/model.safetensors")).unwrap().len());
    assert_eq!(all[3]["snapshots"][0]["runs"], false);
    assert!(all[3]["snapshots"][0]["why_not"].as_str().unwrap().contains("mystery"));
    assert_eq!(all[3]["snapshots"][0]["architecture"], Value::Null);
    let shown = succeed(scene.ingot(&["models", "show", "owner/tiny@main"]));
    assert!(shown.contains(COMMIT) && shown.contains("runs (architecture llama)"), "{shown}");
    assert!(shown.contains("tokenizer.json"), "{shown}");

    let removed = succeed(scene.ingot(&["models", "rm", "owner/tiny", "some/half"]));
    assert!(removed.contains("owner/tiny removed, 8.3 MB freed") && removed.lines().count() == 2, "{removed}");
    assert!(!scene.cache().join("models--owner--tiny").exists());
    scene.add("some/other", &[("config.json", "{}")]);
    let removed = json(scene.ingot(&["models", "rm", "some/other", "--json"]));
    // Its one file, and the one that says which commit is `main`.
    assert_eq!((&removed["model"], &removed["freed_bytes"]), (&"some/other".into(), &(2 + COMMIT.len()).into()));
    fail(scene.ingot(&["models", "rm", "owner/tiny"]), 1, &["owner/tiny is not in the cache", "ingot models list"]);
    fail(scene.ingot(&["models", "show", "tiny"]), 2, &["owner/name"]);
    assert!(succeed(scene.ingot(&["models", "list"])).contains("2 models, "));
}
