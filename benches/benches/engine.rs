//! Compilation and its passes, CPU decode and prefill, the sampler, forms of answers and the tokenizer.
//!
//! `cargo bench -p ingot-bench` measures; `cargo test --release` runs each once.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ingot::compiler::pass::bucket;
use ingot::compiler::pipeline::{GRAPH_PASSES, bucket_graph, bucket_kernels};
use ingot::compiler::{Options, TargetProfile, compile};
use ingot::models::Files;
use ingot::models::text::detokenizer::Detokenizer;
use ingot::models::text::grammar::GrammarState;
use ingot::models::text::tokenizer::Tokenizer;
use ingot::runtime::sample::{Constraint, History, Sampling, Scratch, sample, sample_fitting};
use ingot::{DeviceChoice, GenerateOptions, Grammar, LoadOptions, Model, RandomShape, made_up_tokenizer};
use serde_json::json;
use std::hint::black_box;
use std::path::{Path, PathBuf};

/// The plan alone, from shapes: no weight is read.
fn compilation(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group.sample_size(10);
    for name in ["llama-1b", "llama-8b", "llama-70b"] {
        let graph = RandomShape::named(name).expect("a known shape").graph().expect("its graph");
        for target in [TargetProfile::cpu(), TargetProfile::vulkan()] {
            group.bench_function(format!("{name} for {}", target.name), |b| {
                b.iter(|| compile(black_box(&graph), &target, Options::new(8192)).expect("a plan"));
            });
        }
    }
    group.finish();
}

/// Each pass on the graph that the one before it leaves.
fn passes(c: &mut Criterion) {
    let graph = RandomShape::named("llama-8b").expect("a known shape").graph().expect("its graph");
    let target = TargetProfile::vulkan();
    let mut group = c.benchmark_group("pass, llama-8b for vulkan");
    group.sample_size(10);
    let mut before = graph;
    for (name, pass) in GRAPH_PASSES {
        group.bench_function(*name, |b| b.iter(|| pass(black_box(&before), &target).expect("a graph")));
        before = pass(&before, &target).expect("a graph");
    }
    let buckets = bucket::run(&target, 1, 8192, None);
    let bucket = buckets.first().expect("a bucket of one token");
    group.bench_function("kernels of one token", |b| {
        b.iter(|| {
            let graph = bucket_graph(black_box(&before), &target, bucket).expect("a graph");
            bucket_kernels(&graph, &target, bucket, Options::new(8192)).expect("kernels")
        });
    });
    group.finish();
}

/// A story through the shipped tokenizer, there and back.
fn tokenizer(c: &mut Criterion) {
    let tokenizer = Tokenizer::load(&Files::folder(&shipped()), &[]).expect("the shipped tokenizer");
    let text =
        "Once upon a time a small dragon called Pip lived on a hill, and every morning it asked for pizza. ".repeat(20);
    let ids = tokenizer.encode(&text, false).expect("ids");
    let mut group = c.benchmark_group("tokenizer");
    group.throughput(Throughput::Bytes(text.len() as u64)).sample_size(20);
    group.bench_function("encode", |b| b.iter(|| tokenizer.encode(black_box(&text), false).expect("ids")));
    group.throughput(Throughput::Elements(ids.len() as u64));
    group.bench_function("decode token by token", |b| {
        b.iter(|| {
            let mut detokenizer = Detokenizer::new(true);
            let n: usize =
                ids.iter().map(|id| detokenizer.push(&tokenizer, black_box(*id)).expect("a known id").len()).sum();
            n + detokenizer.finish(&tokenizer).expect("the rest").len()
        });
    });
    group.finish();
}

fn shipped() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/ingot-tales-14m")).to_path_buf()
}

/// Sixteen greedy tokens of the shipped model on the processor, prompt of one token.
fn decode(c: &mut Criterion) {
    let options = LoadOptions { device: DeviceChoice::Cpu, cache: ingot::Cache::Off, ..LoadOptions::default() };
    let mut model = Model::load(&shipped(), options).expect("the shipped model");
    let mut group = c.benchmark_group("cpu");
    group.throughput(Throughput::Elements(16)).sample_size(20);
    let answer = GenerateOptions { max_tokens: 16, ignore_eos: true, ..GenerateOptions::default() };
    group.bench_function("decode 16, ingot-tales-14m", |b| {
        b.iter(|| model.generate(black_box(&[1]), &answer, |_| true).expect("an answer"));
    });
    let prompt: Vec<u32> = (0..256).map(|i| 3 + i * 7 % 4000).collect();
    let none = GenerateOptions { max_tokens: 1, ..answer };
    group.throughput(Throughput::Elements(256));
    group.bench_function("prefill 256, ingot-tales-14m", |b| {
        b.iter(|| model.generate(black_box(&prompt), &none, |_| true).expect("an answer"));
    });
    group.finish();
}

/// One draw from a vocabulary of 128k.
fn sampler(c: &mut Criterion) {
    let logits: Vec<f32> = (0..128_256u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 6_000.0).collect();
    let mut scratch = Scratch::default();
    let mut group = c.benchmark_group("sample 128k");
    group.sample_size(20);
    let plain = Sampling { temperature: 0.7, seed: 1, ..Sampling::default() };
    for (name, sampling) in [
        ("temperature", plain.clone()),
        ("top-p", Sampling { top_p: 0.95, ..plain.clone() }),
        ("top-k", Sampling { top_k: 40, ..plain.clone() }),
        ("min-p", Sampling { min_p: 0.05, ..plain.clone() }),
    ] {
        let mut tokens = vec![0];
        group.bench_function(name, |b| {
            b.iter(|| {
                tokens.push(0);
                let history = History { tokens: &tokens, n_prompt: 1, stop_ids: &[] };
                sample(black_box(&logits), &sampling, &history, &mut scratch)
            });
        });
    }
    group.finish();
}

/// Answers of a JSON schema, in vocabularies as large as SmolLM2's and Llama 3's: which tokens may come next, taking one, and
/// choosing among those that may.
fn forms(c: &mut Criterion) {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 40 },
            "age": { "type": "integer", "minimum": 0, "maximum": 900 },
            "kind": { "enum": ["red", "green", "blue"] },
            "hoard": { "type": "array", "items": { "type": "string" } }
        },
        "required": ["name", "age", "kind", "hoard"],
        "additionalProperties": false
    });
    let answer = r#"{"name": "Ember the Old", "age": 412, "kind": "green", "hoard": ["gold", "a pizza oven"]}"#;
    for n_vocab in [49_152, 128_256] {
        let tokenizer = made_up_tokenizer(n_vocab).expect("a tokenizer");
        let ids = tokenizer.encode(answer, false).expect("ids");
        let form = Grammar::JsonSchema(schema.clone());
        let begin = || tokenizer.begin(&form, n_vocab).expect("a form");
        let mut group = c.benchmark_group(format!("form, {n_vocab} tokens"));
        group.sample_size(20);
        group.bench_function("begin", |b| b.iter(&begin));
        // As an answer goes, from the first token on: what a form has not met yet it computes for later.
        let mut mask = Vec::new();
        group.throughput(Throughput::Elements(ids.len() as u64));
        group.bench_function("mask and accept, each token", |b| {
            b.iter_batched(begin, |state| walk(state, &ids, Some(&mut mask)), BatchSize::SmallInput);
        });
        group.bench_function("accept alone, each token", |b| {
            b.iter_batched(begin, |state| walk(state, &ids, None), BatchSize::SmallInput);
        });
        let mut inside = begin();
        ids[..12].iter().for_each(|id| assert!(!inside.accept(*id).expect("it fits")));
        group.throughput(Throughput::Elements(1));
        group.bench_function("mask inside a string", |b| b.iter(|| inside.allowed(&mut mask).expect("a mask")));
        let logits: Vec<f32> = (0..n_vocab).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 6_000.0).collect();
        let mut constraint = Constraint::start(Box::new(Held(inside.clone())));
        constraint.wait();
        let mut scratch = Scratch::default();
        let history = History { tokens: &[0], n_prompt: 1, stop_ids: &[] };
        for (name, temperature) in [("greedy choice of what fits", 0.0), ("draw of what fits", 0.7)] {
            let sampling = Sampling { temperature, seed: 1, ..Sampling::default() };
            group.bench_function(name, |b| {
                b.iter(|| sample_fitting(&logits, &sampling, &history, &constraint, &mut scratch).expect("one fits"));
            });
        }
        group.finish();
    }
}

/// Takes the answer token by token; computes what may come at each if there is memory for it. Gives the state back, so that
/// dropping it is not measured.
fn walk(mut state: GrammarState, ids: &[u32], mut mask: Option<&mut Vec<u32>>) -> GrammarState {
    for id in ids {
        if let Some(mask) = &mut mask {
            state.allowed(mask).expect("a mask");
        }
        state.accept(*id).expect("it fits");
    }
    state
}

/// A form as the runtime takes it.
#[derive(Clone, Debug)]
struct Held(GrammarState);

impl ingot::runtime::sample::Grammar for Held {
    fn allowed(&mut self, mask: &mut Vec<u32>) -> Result<(), String> {
        self.0.allowed(mask).map_err(|error| error.to_string())
    }
    fn accept(&mut self, id: u32) -> Result<bool, String> {
        self.0.accept(id).map_err(|error| error.to_string())
    }
    fn fork(&self) -> Box<dyn ingot::runtime::sample::Grammar> {
        Box::new(self.clone())
    }
}

criterion_group!(benches, compilation, passes, decode, sampler, forms, tokenizer);
criterion_main!(benches);
