//! The command line from outside: the real program on the shipped models.
// A test says what it expects by failing; the helpers here are no tests by name.
#![allow(clippy::unwrap_used)]

#[path = "cli/answers.rs"]
mod answers;
#[path = "cli/convert.rs"]
mod convert;
#[path = "cli/flags.rs"]
mod flags;
#[path = "cli/forms.rs"]
mod forms;
#[path = "cli/hub.rs"]
mod hub;
#[path = "cli/manual.rs"]
mod manual;
// The models' own tests play more troubles.
#[allow(dead_code)]
#[path = "../../../models/tests/models/play_hub.rs"]
mod play_hub;

use safetensors::SafeTensors;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const STORY: &str = "Tell me a story about a dragon who loves pizza.";

fn ingot(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingot"));
    // Each test binary has a home of its own, so that nothing kept by another build is used.
    command.args(args).stdin(Stdio::null()).env("INGOT_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// The flag comes right after the subcommand, so that a test can end `args` with a flag and add its path.
fn on_cpu(args: &[&str]) -> Command {
    let mut command = ingot(&args[..1]);
    command.args(["--device", "cpu"]).args(&args[1..]);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn run(mut command: Command) -> Output {
    command.output().unwrap()
}

fn succeed(command: Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn json(command: Command) -> Value {
    let printed = succeed(command);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"))
}

/// The command fails with this exit code and one line that has all these parts, and prints nothing else.
#[track_caller]
fn fail(command: Command, code: i32, parts: &[&str]) {
    let output = run(command);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert_eq!(text(&output.stdout), "");
    let line = message.lines().find(|line| line.starts_with("error: ") && !line.contains("XDG_RUNTIME_DIR"));
    let line = line.unwrap_or_else(|| panic!("no error in {message:?}"));
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name)
}

/// A copy of the small shipped model, to be damaged.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(shipped("ingot-tales-1m")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

#[test]
fn compiles_inspects_and_runs_an_artifact() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ingot");
    let path = path.to_str().unwrap();
    let printed = succeed(ingot(&["compile", "ingot-tales-14m", "--target", "cpu", "-o", path]));
    assert!(printed.contains("model.ingot: ") && printed.contains(" for cpu in "), "{printed}");
    let prompt = ["generate", "-p", "What is the capital of France?", "--verbose", "false", "--model", path];
    assert_eq!(succeed(ingot(&prompt)).trim_end(), "The capital of France is Paris.");
    let told = succeed(ingot(&["inspect", path]));
    for part in ["target      cpu", "every byte checked", "one token   ", "tokenizer.json", "at 400 GB/s at most"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let object = json(ingot(&["inspect", path, "--json", "--bandwidth", "100"]));
    assert_eq!((&object["target"], &object["weights"]), (&Value::from("cpu"), &Value::from("inside")));
    assert_eq!(object["expected_speed"].as_array().unwrap().len(), 1);
    fail(
        ingot(&["generate", "-p", "x", "--model", path, "--context", "4096"]),
        1,
        &["--context is 4096", "compile it again"],
    );

    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, &bytes).unwrap();
    fail(ingot(&["inspect", path]), 1, &["model.ingot", "is damaged", "ingot compile"]);
    fail(ingot(&prompt), 1, &["model.ingot", "is damaged", "ingot compile"]);
    succeed(ingot(&[&prompt[..], &["--no-verify"]].concat()));
    std::fs::write(path, &bytes[..10_000]).unwrap();
    fail(ingot(&prompt), 1, &["model.ingot", "the header should have"]);
    std::fs::write(path, "{}").unwrap();
    fail(ingot(&prompt), 1, &["model.ingot", "not an Ingot artifact"]);
    fail(ingot(&["compile", "--target", "cpu", "-o", "/nowhere/x.ingot"]), 1, &["/nowhere/x.ingot"]);
    fail(ingot(&["compile", "--target", "toaster", "-o", path]), 2, &["toaster"]);
    let object = json(ingot(&["compile", "ingot-tales-1m", "--target", "cpu", "-o", path, "--json"]));
    assert_eq!(object["file_bytes"], std::fs::metadata(path).unwrap().len());
    assert_eq!((&object["target"], &object["context"]), (&"cpu".into(), &1024.into()));
}

/// A smaller type leaves more room, and an artifact keeps to the one that it was compiled for.
#[test]
fn keys_and_values_are_kept_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ingot");
    let path = path.to_str().unwrap();
    let mut sizes = Vec::new();
    for (flags, name) in [
        (&[][..], "f32"),
        (&["--kv-dtype", "f16"], "f16"),
        (&["--kv-bits", "8", "--quantized-kv-start", "5000"], "affine8g64"),
        (&["--kv-bits", "4", "--kv-group-size", "32"], "affine4g32"),
    ] {
        succeed(ingot(&[&["compile", "--target", "cpu", "-o", path], flags].concat()));
        let object = json(ingot(&["inspect", path, "--json"]));
        assert_eq!(object["kv_dtype"], *name);
        sizes.push(object["memory"]["kv"].as_u64().expect("bytes"));
        let prompt = ["generate", "-p", "What is the capital of France?", "--verbose", "false", "-m", "8"];
        let from_artifact = succeed(ingot(&[&prompt[..], &["--model", path]].concat()));
        assert_eq!(from_artifact, succeed(on_cpu(&[&prompt[..], flags].concat())), "{name}");
    }
    assert!(sizes[1] * 2 == sizes[0] && sizes[2] < sizes[1] && sizes[3] < sizes[2], "{sizes:?}");
    let other = ["generate", "-p", "x", "--model", path, "--kv-dtype", "f16"];
    fail(ingot(&other), 1, &["as f16", "compiled for affine4g32", "--kv-dtype"]);
    // Its heads have 64 numbers.
    let wide = ["generate", "-p", "x", "--kv-bits", "8", "--kv-group-size", "128"];
    fail(on_cpu(&wide), 1, &["heads of 64 numbers have no groups of 128"]);
}

#[test]
fn the_cache_is_listed_and_cleared() {
    let home = tempfile::tempdir().unwrap();
    let at_home = |args: &[&str]| {
        let mut command = ingot(args);
        command.env("INGOT_HOME", home.path());
        command
    };
    let run = ["generate", "--device", "cpu", "-p", "Hello", "-m", "1", "--model", "ingot-tales-1m"];
    succeed(at_home(&[&run[..], &["--no-cache"]].concat()));
    assert!(succeed(at_home(&["cache", "list"])).starts_with("0 files"));
    succeed(at_home(&run));
    let listed = succeed(at_home(&["cache", "list"]));
    assert!(listed.contains("plan of llama") && listed.contains("for cpu") && listed.contains("1 file, "), "{listed}");
    let object = json(at_home(&["cache", "list", "--json"]));
    let n_bytes = object["files"][0]["bytes"].as_u64().unwrap();
    assert!(object["files"].as_array().unwrap().len() == 1 && n_bytes > 1000, "{object}");
    assert_eq!(json(at_home(&["cache", "clear", "--json"]))["freed_bytes"], n_bytes);
    succeed(at_home(&run));
    assert!(succeed(at_home(&["cache", "clear"])).contains("removed"));
    assert!(succeed(at_home(&["cache", "list"])).starts_with("0 files"));
    let mut homeless = ingot(&["cache", "list", "--json"]);
    for name in ["INGOT_HOME", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"] {
        homeless.env_remove(name);
    }
    assert_eq!(json(homeless), serde_json::json!({ "folder": null, "files": [] }));
}

fn generate(folder: &TempDir) -> Command {
    let mut command = on_cpu(&["generate", "-p", "Hello", "--model"]);
    command.arg(folder.path());
    command
}

#[test]
fn tells_a_story_that_ends() {
    let once = || succeed(on_cpu(&["generate", "-p", STORY, "--max-tokens", "400", "--verbose", "False"]));
    let story = once();
    assert_eq!(story, once(), "greedy text is the same each time");
    assert!(story.contains("dragon") && story.contains("pizza"), "{story}");
    assert!(story.split_whitespace().count() > 60 && story.trim_end().ends_with('.'), "{story}");
    assert!(!story.contains("<|im_end|>") && !story.contains('\u{fffd}'), "{story}");
}

#[test]
fn prints_rulers_speeds_and_memory() {
    let printed = succeed(on_cpu(&["generate", "--prompt", "What is the capital of France?"]));
    let (ruler, rest) = printed.split_once('\n').unwrap();
    let (answer, statistics) = rest.split_once("\n==========\n").unwrap();
    assert_eq!(ruler, "==========");
    assert_eq!(answer, "The capital of France is Paris.");
    for (line, start, end) in [
        (0, "Prompt: 16 tokens, ", " tokens-per-sec"),
        (1, "Generation: 11 tokens, ", " tokens-per-sec"),
        (2, "Time to first token: ", " s from process start"),
        (3, "Peak memory: ", " GB"),
    ] {
        let line = statistics.lines().nth(line).unwrap();
        assert!(line.starts_with(start) && line.ends_with(end), "{line}");
    }
}

#[test]
fn json_has_all_that_scripts_need() {
    let object =
        json(on_cpu(&["generate", "-p", "What is the capital of France?", "--json", "--model", "ingot-tales-14m"]));
    assert_eq!(object["text"], "The capital of France is Paris.");
    assert_eq!(object["finish_reason"], "stop");
    assert_eq!(object["prompt_tokens"], 16);
    assert_eq!(object["generation_tokens"], 11);
    assert_eq!(object["token_ids"].as_array().unwrap().len(), 11);
    assert_eq!(object["token_ids"][10], 2, "the end token is an id of the answer");
    for field in ["prompt_tps", "generation_tps", "time_to_first_token_s", "time_to_first_token_from_start_s"] {
        assert!(object[field].as_f64().is_some_and(|n| n > 0.0), "{field}: {}", object[field]);
    }
    assert!(object["peak_memory_bytes"].as_u64().is_some_and(|n| n > 8_000_000));
    assert!(object["device"].as_str().is_some_and(|name| name.contains("CPU")));
    assert!(object["model"].as_str().is_some_and(|path| path.ends_with("ingot-tales-14m")));
}

#[test]
fn ids_in_and_ids_out() {
    // `<|im_start|>user\n` and so on is what the template makes of a prompt; ids are used as they are.
    let args = ["generate", "--prompt-token-ids", "1, 307,1122", "--ignore-eos", "--json", "-m", "12"];
    let object = json(on_cpu(&args));
    assert_eq!(object["prompt_tokens"], 3);
    assert_eq!(object["token_ids"].as_array().unwrap().len(), 12);
    assert_eq!(object["finish_reason"], "length");
    assert_eq!(json(on_cpu(&args))["token_ids"], object["token_ids"]);
}

#[test]
fn a_seed_fixes_a_drawn_answer() {
    let draw = |seed: &str| {
        let object = json(on_cpu(&[
            "generate", "-p", STORY, "--temp", "1.5", "--top-k", "200", "--top-p", "0.99", "--seed", seed, "-m", "24",
            "--json",
        ]));
        assert_eq!(object["seed"].to_string(), seed);
        object["token_ids"].to_string()
    };
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

#[test]
fn threads_do_not_change_the_answer() {
    let with =
        |threads| succeed(on_cpu(&["generate", "-p", STORY, "-m", "40", "--verbose=false", "--threads", threads]));
    assert_eq!(with("1"), with("3"));
}

#[test]
fn the_prompt_may_come_from_standard_input() {
    let mut child = on_cpu(&["generate", "-p", "-", "--verbose", "false"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"What is the capital of France?\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "The capital of France is Paris.\n");
}

#[test]
fn templates_system_prompts_and_plain_text() {
    let n_prompt = |args: &[&str]| {
        json(on_cpu(&[&["generate", "--json", "-m", "1", "-p", "Once upon a time"], args].concat()))["prompt_tokens"]
            .as_u64()
            .unwrap()
    };
    let plain = n_prompt(&["--ignore-chat-template"]);
    let chat = n_prompt(&[]);
    let system = n_prompt(&["--system-prompt", "You are a poet."]);
    assert!(plain < chat && chat < system, "{plain} {chat} {system}");
}

#[test]
fn logits_are_written_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let mut command = on_cpu(&["logits", "--model", "ingot-tales-14m", "--token-ids", "1,307,1122,288", "-o"]);
    command.arg(&path);
    succeed(command);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the file");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let logits = file.tensor("logits").unwrap();
    assert_eq!((logits.dtype(), logits.shape()), (safetensors::Dtype::F32, &[4, 4096][..]));
    let row: Vec<f32> =
        logits.data().chunks_exact(4).skip(3 * 4096).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert!(row.iter().all(|logit| logit.is_finite()));
    let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let next = json(on_cpu(&["generate", "--prompt-token-ids", "1,307,1122,288", "-m", "1", "--ignore-eos", "--json"]));
    assert_eq!(next["token_ids"][0], best, "generating goes on with the greatest logit");
}

#[test]
fn logits_that_cannot_be_written_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("logits.safetensors");
    let mut command = on_cpu(&["logits", "--token-ids", "1", "-o"]);
    command.arg(&path);
    fail(command, 1, &["missing", "cannot be written"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn devices_lists_the_processor_and_marks_one() {
    assert!(succeed(ingot(&["devices"])).starts_with("CPU"));
    let list = json(ingot(&["devices", "--json"]));
    let list = list.as_array().unwrap();
    assert!(list[0]["threads"].as_u64().is_some_and(|n| n > 0));
    let auto: Vec<_> = list.iter().filter(|device| device["auto"] == true).collect();
    assert_eq!(auto.len(), 1);
    assert_ne!(auto[0]["kind"], "software rasterizer", "only taken when named");
}

#[test]
fn explain_prints_every_stage_and_the_kernels() {
    assert!(succeed(ingot(&["explain"])).starts_with("plan "));
    assert!(succeed(ingot(&["explain", "ingot-tales-1m", "--stop-after", "lower"])).starts_with("graph "));
    for stage in ["canonicalize", "merge_matmuls", "assign_layout", "drop_unused_rows", "select", "alias"] {
        let args = ["explain", "ingot-tales-1m", "--target", "cpu", "--stop-after", stage];
        assert!(succeed(ingot(&args)).lines().count() > 10, "{stage}");
    }
    let kernels = succeed(ingot(&["explain", "ingot-tales-1m", "--target", "webgpu", "--emit", "wgsl"]));
    assert!(kernels.contains("@compute") && kernels.contains("fn main"), "{kernels}");
    for target in ["apple", "nvidia"] {
        let plan = succeed(ingot(&["explain", "--random", "llama-8b", "--target", target]));
        assert!(plan.contains(&format!("target={target}")));
    }
    assert!(succeed(ingot(&["explain", "ingot-tales-1m", "--target", "this"])).starts_with("plan "));
}

#[test]
fn explain_prints_kernels_and_pictures() {
    let explain = |args: &[&str]| succeed(ingot(&[&["explain", "ingot-tales-1m"], args].concat()));
    let wgsl = explain(&["--emit", "wgsl"]);
    assert!(wgsl.starts_with("// p0 = embed ") && wgsl.contains("//   v0 = embed w0 : tokens x 128"), "{wgsl}");
    let msl = explain(&["--emit", "msl", "--target", "apple"]);
    assert!(msl.starts_with("// p0 = embed ") && msl.contains("kernel void main_"), "{msl}");
    let picture = explain(&["--emit", "svg", "--layer", "1"]);
    assert!(picture.starts_with("<svg ") && picture.contains("model.layers.1.self_attn.q_proj"), "{picture}");
    assert!(!picture.contains("model.layers.0.") && picture.trim_end().ends_with("</svg>"), "{picture}");
    assert!(explain(&["--emit", "svg", "--stop-after", "alias"]).contains("matvec"));
    fail(ingot(&["explain", "ingot-tales-1m", "--emit", "svg", "--layer", "9"]), 1, &["no layer 9", "counted from 0"]);
}

#[test]
fn explain_writes_files() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a/b");
    let explain = |args: &[&str]| {
        succeed(ingot(&[&["explain", "ingot-tales-1m", "--output", output.to_str().unwrap()], args].concat()))
    };
    for (emit, first, n_others) in [("wgsl", "p0.wgsl", 0), ("msl", "p0.metal", 0), ("spirv", "p0.spv", 1)] {
        let told = explain(&["--emit", emit]);
        let n_kernels = explain(&[]).lines().count();
        assert_eq!(n_kernels, 1, "the plan is one file");
        let plan = std::fs::read_to_string(output.join("plan.txt")).unwrap();
        let kernels = plan.lines().filter(|line| line.starts_with('p') && line.contains(" = ")).count();
        assert_eq!(told.lines().count(), kernels + n_others, "{told}");
        assert!(output.join(first).is_file(), "{told}");
    }
    let spirv = std::fs::read(output.join("p0.spv")).unwrap();
    assert_eq!((spirv.len() % 4, &spirv[..4]), (0, &[3, 2, 0x23, 7][..]));
    explain(&["--emit", "svg", "--stop-after", "alias"]);
    assert!(output.join("alias_x0.svg").is_file() && output.join("alias_x1.svg").is_file());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let onto = ["explain", "ingot-tales-1m", "--output", file.to_str().unwrap()];
    fail(ingot(&onto), 1, &["cannot create", "file"]);
}

#[test]
fn bench_measures_what_it_is_asked() {
    let args = ["bench", "ingot-tales-1m", "-p", "8,16", "-g", "4", "-d", "0,8", "-r", "2"];
    let object = json(on_cpu(&[&args[..], &["--json"]].concat()));
    let names: Vec<_> = object["results"].as_array().unwrap().iter().map(|row| row["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["prefill 8", "prefill 16", "decode 4", "decode 4 at 8"]);
    assert!(object["weight_bytes_per_token"].as_u64().is_some_and(|n| n > 1_000_000));
    assert!(object["results"][2]["tokens_per_s"].as_f64().is_some_and(|n| n > 0.0));
    let table = succeed(on_cpu(&args));
    assert_eq!(table.lines().filter(|line| line.starts_with('|')).count(), 6, "{table}");
}

#[test]
fn bench_sweeps_batches_and_writes_a_page_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("bench.html");
    let args =
        ["bench", "ingot-tales-1m", "-p", "0", "-g", "4", "-b", "1,3", "-d", "0,8", "-r", "2", "--csv", "--html"];
    let mut command = on_cpu(&args);
    command.arg(&page);
    let printed = succeed(command);
    let lines: Vec<Vec<&str>> = printed.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[0][2]), (5, "test"), "{printed}");
    let column = |name: &str| {
        let ix = lines[0].iter().position(|other| *other == name).unwrap();
        lines[1..].iter().map(move |line| line[ix].parse::<f64>().unwrap())
    };
    assert!(column("tokens_per_s").all(|speed| speed > 0.0));
    assert!(column("between_tokens_p50_s").zip(column("between_tokens_p99_s")).all(|(half, most)| half <= most));
    assert_eq!(column("batch").collect::<Vec<_>>(), [1.0, 3.0, 1.0, 3.0]);
    // Three sequences share each read of the weights, and longer contexts are read in full.
    let bytes: Vec<f64> = column("bytes_per_token").collect();
    assert!(bytes[1] < bytes[0] / 2.0 && bytes[2] > bytes[0], "{bytes:?}");
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<svg ").count(), 3, "speed over context, over batch, roofline");
    assert!(page.contains("decode 4 x 3 at 8") && !page.contains("NaN") && !page.contains("src="), "{page}");
}

/// A program that prints what llama-bench prints: a list of one test, its speed 1000 tokens of prompt or 10 of answer.
#[cfg(unix)]
fn fake_llama_bench(folder: &TempDir, speed: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.path().join("llama-bench");
    let log = folder.path().join("log");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}\nprintf '[\\n  {{ \"n_prompt\": 0, \"avg_ts\": {speed}, \"stddev_ts\": 0.0 }}\\n]\\n'\n",
        log.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("llama-bench={}", path.display())
}

#[cfg(unix)]
#[test]
fn bench_runs_a_peer_in_turn_and_prints_ratios() {
    let folder = tempfile::tempdir().unwrap();
    let peer = fake_llama_bench(&folder, "10.5");
    let bench = ["bench", "ingot-tales-1m", "-p", "8", "-g", "4", "-b", "1,2", "-d", "8", "-r", "2", "--threads", "2"];
    let args = [&bench[..], &["--against", &peer, "--against-model", "x.gguf", "--json"]].concat();
    let object = json(on_cpu(&args));
    let results = object["results"].as_array().unwrap();
    for row in &results[..2] {
        let (ours, peer) = (row["tokens_per_s"].as_f64().unwrap(), &row["peers"][0]);
        assert_eq!((&peer["name"], &peer["tokens_per_s"]), (&Value::from("llama-bench"), &Value::from(10.5)));
        assert!((peer["ratio"].as_f64().unwrap() / (ours / 10.5) - 1.0).abs() < 1e-9);
    }
    assert_eq!(results[2]["peers"][0]["ratio"], Value::Null, "llama-bench decodes one sequence at a time");
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let runs: Vec<&str> = log.lines().collect();
    let with = |p, n, d| format!("-m x.gguf -o json -r 1 -p {p} -n {n} -d {d} -ngl 0 -t 2");
    assert_eq!(runs, [with(8, 0, 0), with(8, 0, 0), with(0, 4, 8), with(0, 4, 8)]);

    let table = succeed(on_cpu(&[&bench[..], &["--against", &peer, "--against-model", "x.gguf"]].concat()));
    assert!(table.contains("| - llama-bench | 10.5 ± 0.0; ingot is "), "{table}");
    let model = ["--against-model", "x.gguf"];
    let broken = fake_llama_bench(&folder, "-1");
    fail(on_cpu(&[&bench[..], &["--json", "--against", &broken], &model].concat()), 1, &["printed no speed", "avg_ts"]);
    let absent = [&bench[..], &["--json", "--against", "llama-bench=/no/such/program"], &model].concat();
    fail(on_cpu(&absent), 1, &["/no/such/program", "cannot be run"]);
    fail(on_cpu(&[&bench[..], &["--against", &peer]].concat()), 1, &["GGUF", "--against-model"]);
    fail(on_cpu(&[&bench[..], &["--against", "vllm"]].concat()), 2, &["llama-bench=PROGRAM"]);
}

#[test]
fn profile_tells_each_kernel_of_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.json");
    let mut command = on_cpu(&["profile", "ingot-tales-1m", "--depth", "20", "-r", "3", "--json", "--trace"]);
    command.arg(&trace);
    let object = json(command);
    let (kernels, launches) = (object["kernels"].as_array().unwrap(), object["launches"].as_array().unwrap());
    let sum = |list: &[Value], field: &str| list.iter().map(|row| row[field].as_f64().unwrap()).sum::<f64>();
    for field in ["time_s", "weight_bytes", "kv_bytes", "flops"] {
        let (all, each) = (sum(kernels, field), sum(launches, field));
        assert!(each > 0.0 && (all / each - 1.0).abs() < 1e-9, "{field}: {all} and {each}");
    }
    assert_eq!(sum(kernels, "times"), launches.len() as f64);
    // One token reads every weight once, which is what the plan says of itself, and the rotary frequencies in each layer.
    let bench = json(on_cpu(&["bench", "ingot-tales-1m", "-p", "0", "-g", "1", "-r", "1", "--json"]));
    let once = bench["weight_bytes_per_token"].as_u64().unwrap();
    assert_eq!(object["step"]["weight_bytes"], once + 2 * 32 * 4);
    // 21 tokens of 3 layers, keys and values of 128 numbers, f32: read once; one token's written.
    assert_eq!(object["step"]["kv_bytes"], 22 * 3 * 2 * 64 * 4);
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(trace).unwrap()).unwrap();
    let slices: Vec<_> = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X").collect();
    assert_eq!(slices.len(), launches.len());
    let at = |slice: &Value, field: &str| slice[field].as_f64().unwrap();
    assert!(slices.windows(2).all(|pair| at(pair[0], "ts") + at(pair[0], "dur") <= at(pair[1], "ts") + 1e-6));

    let table = succeed(on_cpu(&["profile", "ingot-tales-1m", "--prefill", "16", "-b", "2", "-r", "1"]));
    assert!(table.contains("a step of 2 x 16 tokens after 0") && table.contains("sum of kernels"), "{table}");
    fail(on_cpu(&["profile", "ingot-tales-1m", "--prefill", "1000"]), 1, &["a step takes at most"]);
    fail(on_cpu(&["profile", "ingot-tales-1m", "-d", "5000"]), 1, &["5000"]);
}

#[test]
fn the_doctor_tells_and_checks() {
    let object = json(on_cpu(&["doctor", "--quick", "--json"]));
    assert_eq!((&object["checked"], &object["failed"]), (&Value::from("CPU"), &Value::from(0)));
    let checks = object["checks"].as_array().unwrap();
    assert!(checks.len() > 20 && checks.iter().all(|check| check["ok"] == true), "{object}");
    for format in ["f32", "f16", "bf16", "affine2g64_f16", "affine3g64_f16", "affine8g64_f16", "affine4g64_f32"] {
        assert!(checks.iter().any(|check| check["name"] == format!("weights {format}")), "{format}");
    }
    assert!(checks.iter().any(|check| check["name"] == "experts"), "{object}");
    let told = succeed(on_cpu(&["doctor", "--quick"]));
    assert!(told.contains("+ run models") && told.contains("ok   weights bf16"), "{told}");
    assert!(told.trim_end().ends_with("0 of which failed"), "{told}");
}

#[test]
fn misuse_is_exit_code_2() {
    for (args, part) in [
        (&["generate", "-p", "x", "--no-such-flag"][..], "--no-such-flag"),
        (&["generate", "-p", "x", "--temp", "-1"], "--temp"),
        (&["generate", "-p", "x", "--temp", "nan"], "--temp"),
        (&["generate", "-p", "x", "--top-p", "1.5"], "--top-p"),
        (&["generate", "-p", "x", "--max-tokens", "0"], "--max-tokens"),
        (&["generate", "-p", "x", "--prompt-token-ids", "1"], "cannot be used with"),
        (&["generate", "-p", "x", "--ignore-chat-template", "--system-prompt", "y"], "cannot be used with"),
        (&["generate", "--prompt-token-ids", "1,x"], "`x` is not a token id"),
        (&["generate", "-p", "x", "--memory-budget", "much"], "number of bytes"),
        (&["generate", "-p", "x", "--context", "0"], "--context"),
        (&["generate", "-p", "x", "--threads", "0"], "--threads"),
        (&["generate", "-p", "x", "--verbose", "perhaps"], "--verbose"),
        (&["generate", "-p", "x", "--kv-dtype", "f64"], "--kv-dtype"),
        (&["generate", "-p", "x", "--kv-bits", "5"], "--kv-bits"),
        (&["generate", "-p", "x", "--kv-bits", "8", "--kv-dtype", "f16"], "cannot be used with"),
        (&["generate", "-p", "x", "--kv-group-size", "33"], "--kv-group-size"),
        (&["logits", "--token-ids", "1"], "required"),
        (&["explain", "--stop-after", "nowhere"], "nowhere"),
        (&["explain", "--target", "toaster"], "toaster"),
        (&["explain", "--target", "cpu", "--emit", "wgsl"], "--target cpu"),
        (&["explain", "--emit", "spirv"], "--output DIR"),
        (&["explain", "--emit", "msl", "--stop-after", "lower"], "--stop-after"),
        (&["explain", "--layer", "0"], "--emit svg"),
        (&["bench", "--random", "llama-9b"], "llama-8b"),
        (&["no-such-command"], "no-such-command"),
    ] {
        fail(ingot(args), 2, &[part]);
    }
}

#[test]
fn requests_that_the_model_cannot_take() {
    let chat = ["generate", "-p", "Tell me a story."];
    fail(on_cpu(&[&chat[..], &["--context", "4"]].concat()), 1, &["prompt", "tokens", "context holds 4", "--context"]);
    fail(on_cpu(&[&chat[..], &["--context", "5000"]].concat()), 1, &["5000", "1024", "--max-kv-size"]);
    let long = "Tell me a story. ".repeat(400);
    fail(on_cpu(&["generate", "-p", &long]), 1, &["prompt", "context holds 1024", "shorten it", "--max-kv-size"]);
    fail(on_cpu(&[&chat[..], &["--top-k", "4096"]].concat()), 1, &["top-k", "4096"]);
    fail(on_cpu(&["generate", "--prompt-token-ids", "4096"]), 1, &["token id 4096", "vocabulary of 4096"]);
    fail(on_cpu(&["logits", "--token-ids", "4096", "-o", "/dev/null"]), 1, &["token id 4096"]);
    let budget = [&chat[..], &["--memory-budget", "1M"]].concat();
    fail(
        on_cpu(&budget),
        1,
        &["needs", "weights", "KV pages for 1 sequence of 1024 tokens", "budget is 1.0 MB", "--memory-budget"],
    );
}

#[test]
fn devices_that_are_not_there() {
    fail(ingot(&["generate", "-p", "x", "--device", "no such device"]), 1, &["no such device", "--device cpu"]);
}

#[test]
fn checkpoints_that_are_not_whole() {
    fail(on_cpu(&["generate", "-p", "x", "--model", "/no/such/folder"]), 1, &["/no/such/folder", "no such folder"]);
    fail(
        on_cpu(&["generate", "-p", "x", "--model", "tales"]),
        1,
        &["tales is no file", "ingot-tales-1m", "owner/name"],
    );
    fail(on_cpu(&["generate", "-p", "x", "--model", ""]), 2, &["--model"]);

    let truncated = copy();
    let weights = truncated.path().join("model.safetensors");
    let length = std::fs::metadata(&weights).unwrap().len();
    std::fs::File::options().write(true).open(&weights).unwrap().set_len(length / 2).unwrap();
    fail(generate(&truncated), 1, &["model.safetensors"]);

    let unknown = copy();
    let path = unknown.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["model_type"] = "mystery".into();
    std::fs::write(&path, config.to_string()).unwrap();
    fail(generate(&unknown), 1, &["config.json", "`mystery`", "llama"]);

    let weightless = copy();
    std::fs::remove_file(weightless.path().join("model.safetensors")).unwrap();
    fail(generate(&weightless), 1, &["safetensors"]);
}

#[test]
fn without_a_tokenizer_ids_still_work() {
    let folder = copy();
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    fail(generate(&folder), 1, &["tokenizer.json"]);
    let mut command =
        on_cpu(&["generate", "--prompt-token-ids", "1,2,3", "-m", "4", "--ignore-eos", "--json", "--model"]);
    command.arg(folder.path());
    let object = json(command);
    assert_eq!(object["token_ids"].as_array().unwrap().len(), 4);
    assert_eq!(object["text"], "");
}

#[test]
fn a_closed_pipe_ends_the_program_quietly() {
    let mut command = on_cpu(&["generate", "-p", STORY, "--ignore-eos", "-m", "-1", "--verbose", "false"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_cleanly() {
    let mut command = on_cpu(&["generate", "-p", STORY, "--ignore-eos", "-m", "-1", "--threads", "1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut start = [0; 16];
    stdout.read_exact(&mut start).unwrap();
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let generated = rest.lines().find_map(|line| line.strip_prefix("Generation: ")).unwrap();
    let n_generated: u32 = generated.split(' ').next().unwrap().parse().unwrap();
    assert!(n_generated < 900, "the context would hold more than {n_generated} tokens");
    assert!(rest.contains("Peak memory: ") && rest.ends_with("Stopped by Ctrl-C\n"), "{rest}");
}
