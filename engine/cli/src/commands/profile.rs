//! `ingot profile`: how long every kernel of a step takes, and what share of the device's limits that is.

mod trace;

use crate::args::{self, DeviceArgs, PathArgs, SamplingArgs};
use crate::output;
use anyhow::{Context, Result};
use clap::Args;
use ingot::ir::memory::counted;
use ingot::{Bytes, Ceilings, Cost, Model, Profile, RandomShape, StepShape};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Flags of `ingot profile`.
#[derive(Args)]
pub(crate) struct ProfileArgs {
    #[command(flatten)]
    model: PathArgs,
    /// A model of a published shape with random weights: smollm2-135m, llama-1b, llama-8b, llama-70b,
    /// qwen3-30b-a3b, in 4 bits or in the format after a colon, e.g. llama-8b:affine8g64_f16 or llama-8b:mxfp4
    #[arg(long, value_name = "SHAPE", value_parser = args::shape, conflicts_with = "model")]
    random: Option<RandomShape>,
    /// Tokens in the cache before the step
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    depth: u32,
    /// Sequences in the step
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=args::MAX_BATCH))]
    batch: u32,
    /// A chunk of a prompt of this many tokens instead of one token of each sequence
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prefill: Option<u32>,
    /// Repeats, of which the median counts, after one to warm up
    #[arg(short, long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Write the step's kernels as a trace for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
pub(crate) fn run(args: &ProfileArgs) -> Result<()> {
    args.trace.as_deref().map_or(Ok(()), output::check_place)?;
    let shape = StepShape { n_sequences: args.batch, n_tokens: args.prefill.unwrap_or(1), depth: args.depth };
    let mut device = args.device.clone();
    device.make_room(args.batch, shape.depth.saturating_add(shape.n_tokens));
    let limits = device.limits()?;
    let (mut model, name) = match &args.random {
        Some(random) => (device.load_random(random)?, format!("{} {} (random weights)", random.name, random.format)),
        None => {
            let folder = args.model.folder()?;
            (device.load(&folder)?, folder.display().to_string())
        }
    };
    let profile = model.profile(shape, &args.sampling.sampling(), args.repeats as usize)?;
    let ceilings = limits.of(&model)?;
    if let Some(path) = &args.trace {
        let trace = trace::of(&profile, &ceilings, &name, model.device());
        std::fs::write(path, trace.to_string()).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if args.json {
        return output::println(&object(&model, &name, &profile, &ceilings).to_string());
    }
    output::println(&table(&model, &name, &profile, &ceilings))
}

/// Share of what the device could do in the time.
fn share(cost: &Cost, time_s: f64, ceilings: &Ceilings) -> f64 {
    ceilings.least_s(cost.bytes(), cost.flops) / time_s.max(1e-12)
}

fn table(model: &Model, name: &str, profile: &Profile, ceilings: &Ceilings) -> String {
    let StepShape { n_sequences, n_tokens, depth } = profile.shape;
    let kernels = profile.by_kernel();
    let width = kernels.iter().map(|kernel| kernel.name.len()).max().unwrap_or(0).max("sum of kernels".len());
    let mut lines = vec![
        format!("{name} on {}", model.device()),
        format!(
            "a step of {n_sequences} x {} after {depth}; limits: {}",
            counted(n_tokens.into(), "token"),
            limits(ceilings)
        ),
        String::new(),
        format!(
            "{:<width$}  {:>5}  {:>9}  {:>9}  {:>6}  {:>9}  {:>8}  {:>9}  {:>6}",
            "kernel", "times", "us", "us each", "of all", "bytes", "GB/s", "GFLOP/s", "limit"
        ),
    ];
    let row = |name: &str, n: usize, time_s: f64, cost: &Cost| {
        format!(
            "{name:<width$}  {n:>5}  {:>9.1}  {:>9.2}  {:>4.0} %  {:>9}  {:>8.1}  {:>9.1}  {:>4.0} %",
            time_s * 1e6,
            time_s * 1e6 / n.max(1) as f64,
            time_s / profile.kernels_s().max(1e-12) * 100.0,
            Bytes(cost.bytes()).to_string(),
            cost.bytes() as f64 / time_s.max(1e-12) / 1e9,
            cost.flops as f64 / time_s.max(1e-12) / 1e9,
            share(cost, time_s, ceilings) * 100.0,
        )
    };
    lines.extend(kernels.iter().map(|kernel| row(&kernel.name, kernel.n, kernel.time_s, &kernel.cost)));
    let n = profile.launches.len();
    lines.push(row("sum of kernels", n, profile.kernels_s(), &profile.facts.cost));
    lines.push(row("the step unmarked", n, profile.step_s, &profile.facts.cost));
    lines.join("\n")
}

fn limits(ceilings: &Ceilings) -> String {
    format!("reading {:.1} GB/s, f32 {:.0} GFLOP/s", ceilings.read_gb_s, ceilings.gflop_s)
}

fn object(model: &Model, name: &str, profile: &Profile, ceilings: &Ceilings) -> Value {
    let cost = |cost: &Cost, time_s: f64| {
        json!({
            "time_s": time_s,
            "weight_bytes": cost.weight_bytes,
            "kv_bytes": cost.kv_bytes,
            "activation_bytes": cost.activation_bytes,
            "flops": cost.flops,
            "share_of_limit": share(cost, time_s, ceilings),
        })
    };
    let with = |name: &str, kernel: u32, mut object: Value| {
        object["name"] = name.into();
        object["kernel"] = format!("p{kernel}").into();
        object
    };
    let kernels = profile.by_kernel().into_iter().map(|kernel| {
        let mut object = with(&kernel.name, kernel.kernel, cost(&kernel.cost, kernel.time_s));
        object["times"] = kernel.n.into();
        object
    });
    let launches = profile.launches.iter().map(|launch| {
        let mut object = with(&launch.name, launch.kernel, cost(&launch.cost, launch.time_s));
        object["start_s"] = launch.start_s.into();
        object
    });
    let StepShape { n_sequences, n_tokens, depth } = profile.shape;
    json!({
        "model": name,
        "device": model.device(),
        "sequences": n_sequences,
        "tokens": n_tokens,
        "depth": depth,
        "read_gb_per_s": ceilings.read_gb_s,
        "gflop_per_s": ceilings.gflop_s,
        "step": cost(&profile.facts.cost, profile.step_s),
        "kernels_s": profile.kernels_s(),
        "kernels": kernels.collect::<Vec<_>>(),
        "launches": launches.collect::<Vec<_>>(),
    })
}
