//! `--max-kv-size` on whole models: logits against the interpreter, whatever the chunk, and the memory that it leaves.

use super::support::{Device, devices, turn};
use ingot::compiler::pass::limit_kv;
use ingot::ir::kv::KvType;
use ingot::ir::step::StepTables;
use ingot::{Conversation, DeviceChoice, FinishReason, GenerateOptions, LoadOptions, Model};
use ingot_tests::interpreter::{Interpreter, State};
use ingot_tests::shared::{root, shared};
use ingot_tests::tolerance::{CPU_LOGITS, GPU_LOGITS, KV4_LOGITS, KV8_LOGITS, relative_l2};
use std::path::Path;

const MAX_KV_SIZE: u32 = 24;

fn load(folder: &Path, device: &Device, chunk: u32, kv_type: Option<KvType>) -> Model {
    let options = LoadOptions {
        device: device.choice.clone(),
        cache: ingot::Cache::Off,
        max_kv_size: Some(MAX_KV_SIZE),
        prefill_step_size: Some(chunk),
        kv_type,
        ..LoadOptions::default()
    };
    Model::load(folder, options).unwrap_or_else(|error| panic!("{} on {device:?}: {error}", folder.display()))
}

/// The interpreter's logits of all positions, in one step, with keys and values kept as floats or as such codes.
fn expected(folder: &Path, ids: &[u32], kv_type: Option<KvType>) -> Vec<f32> {
    let model = ingot::models::Model::open(folder).expect("a checkpoint");
    let graph = limit_kv::run(&model.graph().expect("a graph"), MAX_KV_SIZE);
    let numbers = |name: &str| {
        let tensor = model.checkpoint.get(name).or_else(|| model.checkpoint.get(&format!("{name}.weight")));
        tensor.and_then(|tensor| tensor.to_f32s()).unwrap_or_else(|| panic!("{name} is not there"))
    };
    let interpreter = Interpreter::new(&graph, &numbers).keeping(kv_type.unwrap_or(KvType::F32));
    let mut tables = StepTables::default();
    tables.push_sequence(ids.iter().copied(), 0, 0);
    tables.rows = (0..ids.len() as u32).collect();
    let values = interpreter.step(&tables, &mut State::default());
    values[graph.outputs[0]].numbers.clone()
}

/// A family, and how many of the cases run on the processor, on a GPU and on a software rasterizer. On GPUs families differ in
/// kernels that have no part in it, and a software rasterizer takes seconds for the kernels of every load.
const FAMILIES: [(&str, [usize; 3]); 9] = [
    ("llama", [5, 5, 5]),
    ("mistral", [5, 5, 1]),
    ("qwen2", [5, 5, 0]),
    ("qwen3", [5, 0, 0]),
    ("gemma2", [5, 0, 0]),
    ("gemma3_text", [5, 0, 0]),
    ("granite", [5, 0, 0]),
    ("mixtral", [5, 0, 0]),
    ("qwen3_moe", [5, 0, 0]),
];

/// Full layers, and layers with windows of their own; chunks shorter and longer than the limit; codes.
#[test]
fn a_limited_cache_gives_the_interpreters_logits() {
    for (name, [on_cpu, on_gpu, on_software]) in FAMILIES {
        let Some(folder) = shared(&format!("golden/{name}")) else { continue };
        let ids: Vec<u32> = (0..90).map(|ix: u32| (ix * ix * 5 + ix * 11 + 3) % 250).collect();
        let codes = |bits| Some(KvType::Affine { bits, group: 32 });
        let wanted = [None, codes(8), codes(4)].map(|kv_type| (kv_type, expected(&folder, &ids, kv_type)));
        for device in devices() {
            let n_cases = match &device {
                Device { is_cpu: true, .. } => on_cpu,
                Device { is_software: true, .. } => on_software,
                _ => on_gpu,
            };
            let _turn = (n_cases > 0).then(|| turn(&device));
            let tolerance = if device.is_cpu { CPU_LOGITS } else { GPU_LOGITS };
            let all = [
                (13, None, tolerance),
                (512, None, tolerance),
                (1, None, tolerance),
                (13, codes(8), KV8_LOGITS),
                (13, codes(4), KV4_LOGITS),
            ];
            for (chunk, kv_type, tolerance) in all.into_iter().take(n_cases) {
                let mut model = load(&folder, &device, chunk, kv_type);
                let (found, _) = model.logits(&ids).expect("logits");
                let wanted = wanted.iter().find(|(kept, _)| *kept == kv_type).map(|(_, logits)| logits);
                let error = relative_l2(&found, wanted.expect("it is one of them"));
                let what = format!("{name} on {:?}, chunks of {chunk}, {kv_type:?}", device.choice);
                assert!(error <= tolerance, "{what}: off by {error:.1e}, allowed {tolerance:.0e}");
            }
        }
    }
}

/// Fifty turns on a window of 512 tokens: each reads its new tokens alone, and memory stays what it was.
#[test]
fn a_long_conversation_goes_on_in_flat_memory() {
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        cache: ingot::Cache::Off,
        max_kv_size: Some(512),
        ..LoadOptions::default()
    };
    let mut model = Model::load(&root().join("models/ingot-tales-1m"), options).expect("the model loads");
    assert!(model.facts().max_context > 100_000, "positions go on");
    let mut talk = Conversation::with_system("You tell stories.");
    let generate = GenerateOptions { max_tokens: 40, ignore_eos: true, ..GenerateOptions::default() };
    let (mut most, mut n_read) = (0, 0);
    for turn in 0..50 {
        let answer = talk.say(&mut model, "And what happened then?", &generate, |_| true).expect("an answer");
        assert_eq!((answer.ids.len(), answer.finish), (40, FinishReason::Length), "turn {turn}");
        n_read += answer.stats.n_read();
        // The message, what the template puts around it, and the last token of the answer.
        assert!(answer.stats.n_read() < 30, "turn {turn} read {:?}", answer.stats);
        // What kernels work in grows to the longest chunk; the cache of a turn would be 80 kB.
        if turn == 4 {
            most = model.memory().peak + 80_000;
        }
        assert!(turn < 4 || model.memory().peak < most, "turn {turn}: {:?}", model.memory());
    }
    let n_tokens = model.messages_prompt(&talk.rendered(), &Default::default()).expect("ids").len();
    assert!(n_tokens > 2048 && n_read < n_tokens / 2, "{n_read} tokens read of {n_tokens}");
}
