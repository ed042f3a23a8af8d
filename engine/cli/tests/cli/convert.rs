//! Checkpoints in other forms, and how good they are: `ingot convert`, `perplexity` and `compare`.

use super::{fail, ingot, json, on_cpu, succeed};
use std::path::Path;

const TEXT: &str = "Once upon a time there was a little dragon who loved pizza. Every day the dragon flew to the village \
                    and asked for a slice. The people were afraid at first, but soon they were friends.";

fn convert(from: &str, to: &Path, flags: &[&str]) -> String {
    let mut command = ingot(&["convert", "--hf-path", from, "--mlx-path"]);
    command.arg(to).args(flags);
    succeed(command)
}

#[test]
fn a_model_is_dequantized_quantized_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, eight, four] = ["plain", "eight", "four"].map(|name| folder.path().join(name));
    let [plain_str, eight_str, four_str] = [&plain, &eight, &four].map(|path| path.to_str().unwrap());
    convert("ingot-tales-14m", &plain, &["-d", "--dtype", "float32"]);
    let told = convert(plain_str, &eight, &["-q", "--q-mode", "mxfp8"]);
    assert!(told.contains("8.2") && told.contains("bits per weight") && told.contains("1 file"), "{told}");
    convert(plain_str, &four, &["-q", "--q-group-size", "32"]);
    let answer = succeed(on_cpu(&["generate", "--model", eight_str, "-p", "Hello", "-m", "5", "--verbose", "false"]));
    assert!(!answer.trim().is_empty());

    let data = folder.path().join("text.txt");
    std::fs::write(&data, TEXT).unwrap();
    let data = data.to_str().unwrap();
    let flags = ["--data", data, "--sequence-length", "32", "--json"];
    let perplexity = |model: &str| json(on_cpu(&[&["perplexity", "--model", model], &flags[..]].concat()));
    let compared = |a: &str, b: &str| json(on_cpu(&[&["compare", a, b], &flags[..]].concat()));
    let (of_plain, same) = (perplexity(plain_str), compared("ingot-tales-14m", plain_str));
    assert!(of_plain["standard_error"].as_f64().unwrap() > 0.0);
    assert!((same["a"]["perplexity"].as_f64().unwrap() - of_plain["perplexity"].as_f64().unwrap()).abs() < 0.01);
    // Dequantized is the same model; 8 bits are nearer to it than 4.
    let kl = |report: &serde_json::Value| report["kl"]["mean"].as_f64().unwrap();
    assert!(kl(&same) < 1e-6, "{same}");
    let (eight, four) = (compared(plain_str, eight_str), compared(plain_str, four_str));
    assert!(kl(&same) < kl(&eight) && eight["same_top"]["mean"].as_f64().unwrap() > 0.5, "{eight}");
    assert!(four["kl_max"].as_f64().unwrap() >= four["kl_99"].as_f64().unwrap());
    let table = folder.path().join("table.csv");
    let mut command = on_cpu(&[&["compare", plain_str, four_str], &flags[..4], &["--per-token"]].concat());
    command.arg(&table);
    assert!(succeed(command).contains("Same top token"));
    let lines = std::fs::read_to_string(&table).unwrap().lines().count();
    assert_eq!(lines as u64, 1 + four["tokens"].as_u64().unwrap());
}

#[test]
fn wrong_conversions_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    fail(ingot(&["convert", "--hf-path", "ingot-tales-1m", "--mlx-path", out]), 1, &["exists already"]);
    let new = folder.path().join("new");
    let new = new.to_str().unwrap();
    let with =
        |flags: &[&str]| ingot(&[&["convert", "--hf-path", "ingot-tales-1m", "--mlx-path", new], flags].concat());
    fail(with(&["-q", "-d"]), 2, &["--dequantize"]);
    fail(with(&["--q-bits", "4"]), 2, &["required arguments"]);
    fail(with(&["-q", "--q-mode", "mxfp4", "--q-bits", "8"]), 1, &["mxfp4", "4 bits"]);
    fail(with(&["-q", "--q-mode", "nvfp4", "--quant-predicate", "mixed_2_6"]), 1, &["affine"]);
    assert!(!Path::new(new).exists());
    let data = folder.path().join("empty.txt");
    std::fs::write(&data, "").unwrap();
    let data = data.to_str().unwrap();
    fail(on_cpu(&["perplexity", "--model", "ingot-tales-1m", "--data", data]), 1, &["at least 2"]);
    fail(on_cpu(&["perplexity", "--model", "ingot-tales-1m", "--data", "no such file"]), 1, &["no such file"]);
}
