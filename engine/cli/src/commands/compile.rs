//! `ingot compile`: a model becomes one file for a target.

use crate::args::PathArgs;
use crate::{args, output, progress};
use anyhow::{Context, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use ingot::ir::plan::VariantId;
use ingot::{Activations, Bytes, CompileOptions, RandomShape, Tiles};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Flags of `ingot compile`.
#[derive(Args)]
pub(crate) struct CompileArgs {
    #[command(flatten)]
    model: PathArgs,
    /// A model of a published shape with random weights instead: smollm2-135m, llama-1b, llama-8b, llama-70b,
    /// qwen3-30b-a3b, in 4 bits or in the format after a colon, e.g. llama-8b:mxfp4
    #[arg(long, value_name = "SHAPE", value_parser = args::shape, conflicts_with_all = ["model", "plan_only"])]
    random: Option<RandomShape>,
    /// What to compile for; `this` is the device that `ingot generate` would take
    #[arg(long, value_name = "TARGET", default_value = "this", value_parser = PossibleValuesParser::new(args::TARGETS))]
    target: String,
    /// Tiles of matrix products: stored (what `ingot tune` kept for `this`), builtin, or a file that it wrote
    #[arg(long, value_name = "TILES", default_value = "stored")]
    tiles: Tiles,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Longest sequence in tokens [default: the model's, at most 8192; with --max-kv-size 131072]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Sequences at one time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=args::MAX_BATCH))]
    max_batch: u32,
    /// What a GPU multiplies quantized matrices with: f32 (f16 where the target has it), or int8 (rounded to 8 bits); the
    /// processor is told when it runs the file
    #[arg(long, value_name = "TYPE", default_value_t = Activations::F32)]
    activations: Activations,
    #[command(flatten)]
    kv: args::KvArgs,
    /// Memory that the model may take when it runs, e.g. 8G or 1.5GiB; more is refused [default: any]
    #[arg(long, value_name = "BYTES", value_parser = args::bytes)]
    memory_budget: Option<u64>,
    /// Leave the weights where they are; the file names them by path, size and hash
    #[arg(long)]
    plan_only: bool,
    /// Threads that repack weights [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command. `started` is when the process started.
pub(crate) fn run(args: &CompileArgs, started: Instant) -> Result<()> {
    let mut target = args::target(&args.target, &args.tiles)?;
    target.kv_type = args.kv.kv_type().unwrap_or(target.kv_type);
    ingot::round_activations(&mut target, args.activations)?;
    let mut bar = progress::bar("writing");
    let options = CompileOptions {
        target,
        context: args.context,
        max_batch: args.max_batch,
        max_kv_size: args.kv.max_kv_size,
        memory_budget: args.memory_budget,
        plan_only: args.plan_only,
        n_threads: args.threads.map(usize::from),
        progress: bar.as_deref_mut().map(|bar| bar as _),
    };
    let plan = match &args.random {
        Some(shape) => ingot::compile_random(shape, &args.output, options)?,
        None => ingot::compile(&args.model.folder()?, &args.output, options)?,
    };
    drop(bar);
    let n_bytes = std::fs::metadata(&args.output).with_context(|| args.output.display().to_string())?.len();
    if args.json {
        let object = json!({
            "file": args.output.display().to_string(),
            "file_bytes": n_bytes,
            "model": plan.model,
            "target": plan.target,
            "seconds": started.elapsed().as_secs_f64(),
            "kernels": plan.kernels.len(),
            "dispatches": plan.dispatches_of(VariantId(0)).len(),
            "weight_bytes": plan.weight_bytes_of(VariantId(0)),
            "context": plan.max_context,
            "max_batch": plan.max_batch,
        });
        return output::println(&object.to_string());
    }
    output::println(&format!(
        "{}: {}, {} for {} in {:.1} s\n{} kernels, {} dispatches and {} of weights a token, {} tokens of context",
        args.output.display(),
        Bytes(n_bytes),
        plan.model,
        plan.target,
        started.elapsed().as_secs_f64(),
        plan.kernels.len(),
        plan.dispatches_of(VariantId(0)).len(),
        Bytes(plan.weight_bytes_of(VariantId(0))),
        plan.max_context,
    ))
}
