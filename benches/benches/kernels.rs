//! Steps of random models kernel by kernel, on the processor and on the first adapter: bytes a second of kernels that
//! decode, operations a second of those that read a prompt, and the time that choosing a token takes.
//!
//! `cargo bench -p ingot-bench --bench kernels [-- FILTER]` measures two published shapes with fewer layers, in several
//! formats; `cargo test --release` runs a small model once.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ingot::ir::weight::{Format, ScaleType};
use ingot::runtime::gpu::{DeviceKind, adapters};
use ingot::{
    AdjustTarget, Cache, DeviceChoice, LoadOptions, Model, Penalty, Profile, ProfiledKernel, RandomShape, Sampling,
    StepShape, Tiles,
};
use std::time::Duration;

/// Profiles that one sample is the median of: a step is many times as long as any of its kernels, and criterion asks
/// for as many of those as fill its time.
const MOST_PROFILES: u64 = 4;

/// Tokens in the cache of a decode.
const DEPTH: u32 = 512;

/// Whether this is a measurement, and not the one run of a test.
fn measuring() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}

/// The processor, and the first adapter if there is one. A test takes any, a measurement a real one.
fn devices() -> Vec<(&'static str, DeviceChoice)> {
    let mut devices = vec![("cpu", DeviceChoice::Cpu)];
    let infos = adapters();
    let wanted = infos.iter().filter(|info| !measuring() || info.kind != DeviceKind::Cpu);
    match wanted.min_by_key(|info| info.kind == DeviceKind::Cpu) {
        Some(info) => devices.push(("gpu", DeviceChoice::Named(info.name.clone()))),
        None => {
            println!("skipped: no {}adapter, so kernels run on the CPU alone", if measuring() { "real " } else { "" })
        }
    }
    devices
}

fn affine(bits: u8, group: u16) -> Format {
    Format::Affine { bits, group, scales: ScaleType::F16 }
}

/// What is run: layers are alike, so some are enough; one must not fit into a cache.
fn shapes() -> Vec<RandomShape> {
    let named = |name: &str| RandomShape::named(name).expect("a known shape");
    if !measuring() {
        let small = named("smollm2-135m");
        return vec![RandomShape { n_layers: 1, n_vocab: 512, intermediate: 192, ..small }];
    }
    let formats = [affine(4, 64), affine(4, 32), affine(8, 64), Format::F16];
    let shapes = [("llama-1b", 8), ("llama-8b", 4)];
    let all = shapes.into_iter().flat_map(|(name, n_layers)| {
        formats.map(|format| RandomShape { n_layers, n_vocab: 32_000, format, ..named(name) })
    });
    all.collect()
}

fn load(shape: &RandomShape, device: &DeviceChoice) -> Model {
    // Drivers take long to compile kernels for a processor, so a test has one size of chunks.
    let fewer: Option<AdjustTarget> =
        (!measuring()).then(|| -> AdjustTarget { Box::new(|target| target.matvec_rows = 1) });
    let options = LoadOptions {
        device: device.clone(),
        context: Some(1024),
        cache: Cache::Off,
        tiles: if measuring() { Tiles::Stored } else { Tiles::BuiltIn },
        adjust_target: fewer,
        ..LoadOptions::default()
    };
    Model::load_random(shape, options).expect("a random model")
}

/// Adds a benchmark of the seconds that `of` takes from a profile of the step of `first`, which is enough for a test.
fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: String,
    model: &mut Model,
    sampling: &Sampling,
    first: &Profile,
    of: impl Fn(&Profile) -> f64,
) {
    group.bench_function(name, |b| {
        b.iter_custom(|n| {
            let mut again = || {
                model.profile(first.shape, sampling, n.clamp(1, MOST_PROFILES) as usize).expect("a step of the plan")
            };
            let seconds = if measuring() { of(&again()) } else { of(first) };
            assert!(seconds > 0.0, "a kernel takes time");
            Duration::from_secs_f64(seconds * n as f64)
        });
    });
}

fn each(kernel: &ProfiledKernel) -> f64 {
    kernel.time_s / kernel.n as f64
}

fn kernels(c: &mut Criterion) {
    let greedy = Sampling::default();
    for (device, choice) in devices() {
        for shape in shapes() {
            let mut model = load(&shape, &choice);
            let chunk = model.facts().max_step_tokens.min(512);
            let decode = StepShape { n_sequences: 1, n_tokens: 1, depth: if measuring() { DEPTH } else { 8 } };
            let prefill = StepShape { n_sequences: 1, n_tokens: chunk, depth: 0 };
            let name = format!("{device} {} {}", shape.name, shape.format);
            for (kind, step) in [("decode", decode), ("prefill", prefill)] {
                let mut group = c.benchmark_group(format!("{name} {kind}"));
                group.sample_size(10).warm_up_time(Duration::from_millis(200));
                group.measurement_time(Duration::from_millis(500));
                group.throughput(Throughput::Elements(step.n_tokens.into()));
                let first = model.profile(step, &greedy, 1).expect("a step of the plan");
                bench(&mut group, "step".into(), &mut model, &greedy, &first, |profile| profile.step_s);
                for kernel in first.by_kernel() {
                    let (bytes, flops) = (kernel.cost.bytes() / kernel.n as u64, kernel.cost.flops / kernel.n as u64);
                    let amount = if step.n_tokens > 1 && flops > 0 {
                        Throughput::Elements(flops)
                    } else {
                        Throughput::Bytes(bytes)
                    };
                    group.throughput(amount);
                    let find = |profile: &Profile| {
                        let kernels = profile.by_kernel();
                        kernels.iter().find(|found| found.kernel == kernel.kernel).map_or(0.0, each)
                    };
                    let name = format!("p{} {}", kernel.kernel, kernel.name);
                    bench(&mut group, name, &mut model, &greedy, &first, find);
                }
                group.finish();
            }
        }
    }
}

/// Everything that chooses one token from large vocabularies on the adapter. Random weights leave flat rows, of which filters keep
/// most tokens; a bias on some ids makes the others as unlikely as they are in a text.
fn sampling(c: &mut Criterion) {
    let plain = Sampling { temperature: 0.8, ..Sampling::default() };
    let likely = (0..60).map(|ix| (ix * 61, 14.0 - ix as f32 / 8.0)).collect();
    let peaked = Sampling { logit_bias: likely, ..plain.clone() };
    let penalty = Penalty { strength: 1.1, window: 64 };
    let samplings = [
        ("greedy", Sampling::default()),
        ("temperature", plain.clone()),
        ("top-p 0.95, flat", Sampling { top_p: 0.95, ..plain.clone() }),
        ("top-p 0.95, peaked", Sampling { top_p: 0.95, ..peaked.clone() }),
        ("top-k 40", Sampling { top_k: 40, ..plain }),
        ("penalty, top-p 0.95, min-p 0.05, top-k 40", {
            Sampling { repetition: penalty, top_p: 0.95, min_p: 0.05, top_k: 40, ..peaked }
        }),
    ];
    let sizes: &[u32] = if measuring() { &[128_256, 262_144] } else { &[4_100] };
    for (device, choice) in devices().into_iter().filter(|(device, _)| *device == "gpu") {
        for &n_vocab in sizes {
            let small = RandomShape::named("smollm2-135m").expect("a known shape");
            let shape = RandomShape { n_layers: 1, intermediate: 192, n_vocab, ..small };
            let mut model = load(&shape, &choice);
            let mut group = c.benchmark_group(format!("{device} choosing one of {n_vocab}"));
            group.sample_size(10).warm_up_time(Duration::from_millis(200));
            group.measurement_time(Duration::from_millis(500));
            let step = StepShape { n_sequences: 1, n_tokens: 1, depth: 128 };
            for (name, sampling) in &samplings {
                let first = model.profile(step, sampling, 1).expect("a step of the plan");
                let of = |profile: &Profile| {
                    let kernels = profile.by_kernel();
                    kernels.iter().filter(|kernel| kernel.name.starts_with("sample")).map(|kernel| kernel.time_s).sum()
                };
                bench(&mut group, (*name).into(), &mut model, sampling, &first, of);
            }
            group.finish();
        }
    }
}

criterion_group!(benches, kernels, sampling);
criterion_main!(benches);
