//! SmolLM2-135M-Instruct, real weights. The folder is looked for in `target/models/SmolLM2-135M-Instruct`, where the
//! continuous integration puts it.

use super::support::{Device, adapter, devices, load, turn};
use ingot::runtime::sample::log_softmax;
use ingot::{GenerateOptions, Model, Windows};
use ingot_tests::shared::{root, shared, skip};
use ingot_tests::tolerance::{SMOLLM2_CPU_LOGPROB, SMOLLM2_GPU_LOGPROB};
use serde_json::Value;
use std::path::PathBuf;

/// Prompts, the shortest, and positions after each that a software rasterizer is asked for: it makes a token or two a second.
const RASTERIZER: (usize, usize) = (2, 8);

fn folder() -> Option<PathBuf> {
    let folder = root().join("target/models/SmolLM2-135M-Instruct");
    if folder.join("model.safetensors").exists() {
        return Some(folder);
    }
    skip(&format!("{} is not there; `bash tests/run` fetches it", folder.display()));
    None
}

struct Run {
    id: String,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    /// The five best (id, log-probability) at each step.
    best: Vec<Vec<(usize, f32)>>,
}

fn runs() -> Option<Vec<Run>> {
    let text = std::fs::read_to_string(shared("golden/smollm2/reference.json")?).ok()?;
    let json: Value = serde_json::from_str(&text).expect("valid JSON");
    let ids =
        |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_u64).map(|id| id as u32).collect();
    let pair = |pair: &Value| (pair[0].as_u64().expect("an id") as usize, pair[1].as_f64().expect("a number") as f32);
    let pairs = |step: &Value| step.as_array().into_iter().flatten().map(pair).collect();
    let run = |run: &Value| Run {
        id: run["id"].as_str().unwrap_or_default().to_owned(),
        prompt: ids(&run["ids"]),
        greedy: ids(&run["greedy_ids"]),
        best: run["top5_logprobs"].as_array().into_iter().flatten().map(pairs).collect(),
    };
    Some(json["runs"].as_array().expect("runs").iter().map(run).collect())
}

/// Teacher-forced: the reference's five best log-probabilities at every step, and its choice where the margin allows.
fn check(run: &Run, model: &mut Model, device: &Device, n_steps: usize) {
    let tolerance = if device.is_cpu { SMOLLM2_CPU_LOGPROB } else { SMOLLM2_GPU_LOGPROB } as f32;
    let mut forced = run.prompt.clone();
    forced.extend(&run.greedy[..n_steps - 1]);
    let (logits, n_vocab) = model.logits(&forced).unwrap_or_else(|error| panic!("{}: {error}", run.id));
    let (mut logprobs, mut worst) = (Vec::new(), 0f32);
    for step in 0..n_steps {
        let row = run.prompt.len() - 1 + step;
        log_softmax(&logits[row * n_vocab..(row + 1) * n_vocab], &mut logprobs);
        for &(id, expected) in &run.best[step] {
            let error = (logprobs[id] - expected).abs();
            worst = worst.max(error);
            assert!(error <= tolerance, "{}, step {step}, id {id}: {} instead of {expected}", run.id, logprobs[id]);
        }
        if run.best[step][0].1 - run.best[step][1].1 > 2.0 * tolerance {
            let found = ingot::runtime::sample::argmax(&logprobs);
            assert_eq!(found as usize, run.best[step][0].0, "{}, step {step}", run.id);
        }
    }
    println!("{} on {:?}: log-probabilities within {worst:.1e} over {n_steps} steps", run.id, device.choice);
}

#[test]
fn log_probabilities_and_ids_on_the_cpu() {
    let (Some(folder), Some(runs)) = (folder(), runs()) else { return };
    let device = &devices()[0];
    let mut model = load(&folder, device, |_| {});
    for run in &runs {
        check(run, &mut model, device, run.greedy.len());
        let options =
            GenerateOptions { max_tokens: run.greedy.len() as u32, ignore_eos: true, ..GenerateOptions::default() };
        let answer = model.generate(&run.prompt, &options, |_| true).expect("an answer");
        assert_eq!(answer.ids, run.greedy, "{}: freely generated", run.id);
    }
}

#[test]
fn log_probabilities_on_the_gpu() {
    let (Some(folder), Some(mut runs), Some(name)) = (folder(), runs(), adapter()) else { return };
    let device = Device {
        choice: ingot::DeviceChoice::Named(name.clone()),
        is_cpu: false,
        is_software: name.contains("llvmpipe"),
    };
    let _turn = turn(&device);
    let (n_prompts, n_steps) = if device.is_software { RASTERIZER } else { (usize::MAX, usize::MAX) };
    runs.sort_by_key(|run| run.prompt.len());
    let mut model = load(&folder, &device, |_| {});
    for run in runs.iter().take(n_prompts) {
        check(run, &mut model, &device, n_steps.min(run.greedy.len()));
    }
}

/// The GGUF file that the folder was made of: its weights are the same but for rounding to bf16, its tokenizer and template
/// are its own.
#[test]
fn the_gguf_file_is_the_folders_model() {
    let Some(folder) = folder() else { return };
    let file = folder.with_extension("Q4_1.gguf");
    if !file.exists() {
        return skip(&format!("{} is not there; `bash tests/run` fetches it", file.display()));
    }
    let device = &devices()[0];
    let (mut a, mut b) = (load(&folder, device, |_| {}), load(&file, device, |_| {}));
    let text = "The Rhine rises in the Alps, turns north at Basel, and reaches the sea in the Netherlands. Its water \
                drives mills and fills canals, and for two thousand years it has been a border and a road.";
    let windows = Windows { n_tokens: 64, most: None, seed: None };
    let found = ingot::compare(&mut a, &mut b, text, windows, &mut |_, _| {}).expect("one vocabulary");
    assert!(found.kl().mean() < 0.005, "KL divergence {}", found.kl().mean());
    let question = "What is the capital of France?";
    let prompts = [&a, &b].map(|model| model.chat_prompt(question).expect("a template"));
    assert_eq!(prompts[0], prompts[1]);
    let options = GenerateOptions { max_tokens: 16, ..GenerateOptions::default() };
    let answer = b.generate(&prompts[1], &options, |_| true).expect("an answer");
    assert_eq!(answer.text, "The capital of France is Paris.");
}
