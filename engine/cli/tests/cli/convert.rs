//! Checkpoints in other forms, and how good they are: `ingot convert`, `quantize`, `perplexity` and `compare`.

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
    let told: serde_json::Value =
        serde_json::from_str(&convert(plain_str, &four, &["-q", "--q-group-size", "32", "--json"])).unwrap();
    assert_eq!((&told["path"], &told["files"]), (&four_str.into(), &1.into()));
    assert!(told["bits_per_weight"].as_f64().is_some_and(|bits| (5.0..5.1).contains(&bits)), "{told}");
    // The file has a header besides.
    let file_bytes = std::fs::metadata(four.join("model.safetensors")).unwrap().len();
    assert!(told["bytes"].as_u64().is_some_and(|n| n < file_bytes && n > file_bytes - 50_000), "{told}");
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
    let long = ["perplexity", "--data", data, "--sequence-length", "32", "--context", "16"];
    fail(on_cpu(&long), 1, &["windows of 32 tokens", "context of 16", "--sequence-length"]);
}

#[test]
fn models_that_give_no_numbers_are_not_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, data) = (folder.path().join("plain"), folder.path().join("text.txt"));
    convert("ingot-tales-1m", &plain, &["-d", "--dtype", "float32"]);
    std::fs::write(&data, TEXT).unwrap();
    let file = plain.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let n_header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..n_header]).unwrap();
    let at = n_header + header["model.norm.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let (plain, data) = (plain.to_str().unwrap(), data.to_str().unwrap());
    let on_text = |args: &[&str]| on_cpu(&[args, &["--data", data, "--sequence-length", "16"]].concat());
    let told = ["plain", "token 1 of the text", "not all numbers"];
    fail(on_text(&["perplexity", "--model", plain]), 1, &told);
    fail(on_text(&["compare", "ingot-tales-1m", plain]), 1, &told);
    fail(on_text(&["compare", plain, plain]), 1, &told);
}

#[test]
fn windows_begin_as_a_text_does_and_not_with_its_end() {
    let folder = super::copy();
    let data = folder.path().join("text.txt");
    std::fs::write(&data, TEXT).unwrap();
    let file = folder.path().join("tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let [first, second] = [0, 1].map(|ix| tokenizer["added_tokens"][ix].clone());
    let pair = tokenizer["post_processor"]["pair"].clone();
    let mut perplexity = |around: &[&serde_json::Value], before: usize| {
        let piece = |token: &&serde_json::Value| serde_json::json!({ "SpecialToken": { "id": token["content"], "type_id": 0 } });
        let mut single: Vec<serde_json::Value> = around.iter().map(piece).collect();
        single.insert(before, serde_json::json!({ "Sequence": { "id": "A", "type_id": 0 } }));
        let token = |token: &serde_json::Value| {
            let of = &token["content"];
            (of.as_str().unwrap().to_owned(), serde_json::json!({ "id": of, "ids": [token["id"]], "tokens": [of] }))
        };
        let tokens: serde_json::Map<_, _> = [&first, &second].map(token).into_iter().collect();
        tokenizer["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens,
        });
        std::fs::write(&file, tokenizer.to_string()).unwrap();
        let mut command = on_cpu(&["perplexity", "--json", "--sequence-length", "16", "--data"]);
        command.arg(&data).arg("--model").arg(folder.path());
        json(command)
    };
    let begun = perplexity(&[&first], 1);
    assert_eq!(perplexity(&[&first, &second], 1), begun);
    let bare = perplexity(&[], 0);
    assert!(bare["perplexity"] != begun["perplexity"]);
    assert_eq!(perplexity(&[&second], 0), bare);
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
    fail(with(&["--q-mode", "mxfp4"]), 2, &["required arguments"]);
    fail(with(&["-q", "--q-mode", "mxfp4", "--q-bits", "8"]), 1, &["mxfp4", "4 bits"]);
    fail(with(&["-q", "--q-mode", "nvfp4", "--quant-predicate", "mixed_2_6"]), 1, &["affine"]);
    assert!(!Path::new(new).exists());
    let data = folder.path().join("empty.txt");
    std::fs::write(&data, "").unwrap();
    let data = data.to_str().unwrap();
    fail(on_cpu(&["perplexity", "--model", "ingot-tales-1m", "--data", data]), 1, &["at least 2"]);
    fail(on_cpu(&["perplexity", "--model", "ingot-tales-1m", "--data", "no such file"]), 1, &["no such file"]);
    let text = folder.path().join("text.txt");
    std::fs::write(&text, TEXT).unwrap();
    let text = ["--data", text.to_str().unwrap()];
    let long = ["perplexity", "--model", "ingot-tales-1m", "--context", "16", "--sequence-length", "32"];
    fail(on_cpu(&[&long[..], &text].concat()), 1, &["windows of 32 tokens", "context of 16", "--sequence-length"]);
    let nowhere = ["compare", "ingot-tales-1m", "ingot-tales-1m", "--per-token", "no such folder/x.csv"];
    fail(on_cpu(&[&nowhere[..], &text].concat()), 1, &["x.csv", "no folder no such folder"]);
}

#[test]
fn searched_widths_are_nearer_than_equal_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [plain, equal, mix, again, data, kept] =
        ["plain", "equal", "mix", "again", "text.txt", "sensitivities.json"].map(path);
    std::fs::write(&data, TEXT).unwrap();
    convert("ingot-tales-1m", Path::new(&plain), &["-d", "--dtype", "float32"]);
    let size = |told: &str| -> f64 {
        let words: Vec<&str> = told.split(' ').collect();
        let at = words.iter().position(|word| *word == "bits").unwrap();
        words[at - 1].parse().unwrap()
    };
    let equal_size = size(&convert(&plain, Path::new(&equal), &["-q", "--q-group-size", "32"]));
    let target = equal_size.to_string();
    let widths = ["--low-bits", "2", "--high-bits", "8", "--group-size", "32", "--target-bpw", &target];
    let search = |out: &str, flags: &[&str]| {
        on_cpu(&[&["quantize", "--search", "--model", &plain, "--mlx-path", out], &widths[..], flags].concat())
    };
    let measured = ["--data", &data, "--sequence-length", "32", "--sensitivities", &kept];
    let mix_size = size(&succeed(search(&mix, &measured)));
    assert!(mix_size <= equal_size && mix_size > 0.95 * equal_size, "{mix_size} against {equal_size}");
    let kl = |model: &str| {
        let report = json(on_cpu(&["compare", &plain, model, "--data", &data, "--sequence-length", "32", "--json"]));
        report["kl"]["mean"].as_f64().unwrap()
    };
    let (of_mix, of_equal) = (kl(&mix), kl(&equal));
    assert!(of_mix < of_equal, "{of_mix} against {of_equal}");

    // What was measured serves again, without a text.
    let told = json(search(&again, &["--sensitivities", &kept, "--json"]));
    assert!((told["bits_per_weight"].as_f64().unwrap() - mix_size).abs() < 1e-3, "{told}");
    let weights = |folder: &str| std::fs::read(Path::new(folder).join("model.safetensors")).unwrap();
    assert!(weights(&mix) == weights(&again));

    // Of two groups the larger is that of the fewest bits. Perplexities are those of the windows that were drawn.
    let fine = path("fine");
    let groups = ["--low-group-size", "128", "--high-group-size", "32", "--sensitivities", &kept, "--json"];
    let asked = ["--report-ppl", "--data", &data, "--sequence-length", "16", "--num-samples", "1", "--seed", "3"];
    let told = json(search(&fine, &[&groups[..], &asked].concat()));
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(Path::new(&fine).join("config.json")).unwrap()).unwrap();
    let quantization = config["quantization"].as_object().unwrap();
    let shape = |object: &serde_json::Value| (object["bits"].as_u64().unwrap(), object["group_size"].as_u64().unwrap());
    assert_eq!(shape(&config["quantization"]), (2, 128));
    let listed: Vec<_> = quantization.values().filter(|value| value.is_object()).map(shape).collect();
    assert!(!listed.is_empty() && listed.iter().all(|shape| *shape != (2, 128)), "{listed:?}");
    assert!(listed.iter().all(|(_, group)| [32, 128].contains(group)), "{listed:?}");
    for (key, model) in [("original", &plain), ("quantized", &fine)] {
        let alone = json(on_cpu(&[&["perplexity", "--model", model, "--json"], &asked[1..]].concat()));
        assert_eq!((alone["tokens"].as_u64(), &alone["perplexity"]), (Some(15), &told[key]["perplexity"]), "{told}");
    }
    let of =
        |flags: &[&str]| json(on_cpu(&[&["perplexity", "--model", &plain, "--json"], &asked[1..5], flags].concat()));
    let windows = ["1", "-1"].map(|n| of(&["--num-samples", n]));
    assert!(windows[1]["tokens"].as_u64() > Some(15) && windows[1] == of(&[]), "{windows:?}");
    let drawn = (0..8).map(|seed| of(&["--num-samples", "1", "--seed", &seed.to_string()]));
    assert!(drawn.into_iter().any(|one| one != windows[0]), "other windows are never drawn");

    fail(search(&mix, &measured), 1, &["mix", "exists already"]);
    let new = path("new");
    fail(search(&new, &[]), 2, &["required arguments"]);
    let no_search = ["quantize", "--model", &plain, "--mlx-path", &new, "--data", &data];
    fail(on_cpu(&no_search), 2, &["required arguments"]);
    let with = |flags: &[&str]| on_cpu(&[&no_search[..], &["--search"], flags].concat());
    fail(with(&["--target-bpw", "3"]), 1, &["in its least form", "--low-bits"]);
    fail(with(&["--low-bits", "7", "--high-bits", "8"]), 1, &["7 bits"]);
    fail(with(&["--low-group-size", "32", "--high-group-size", "16"]), 1, &["groups of 16"]);
    fail(with(&["--high-bits", "4"]), 1, &["from 4 bits in groups of 64"]);
    fail(with(&["--num-samples", "0"]), 2, &["above 0"]);
    fail(search(&new, &["--sensitivities", &kept, "--report-ppl"]), 2, &["required arguments"]);
    std::fs::write(&kept, r#"[["model.other", 1.0]]"#).unwrap();
    fail(with(&["--sensitivities", &kept]), 1, &["another model", "model.other"]);
    std::fs::write(&kept, "{}").unwrap();
    fail(with(&["--sensitivities", &kept]), 1, &["sensitivities.json"]);
    assert!(!Path::new(&new).exists());
}
