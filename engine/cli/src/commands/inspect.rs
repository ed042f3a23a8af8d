//! `ingot inspect`: what a compiled file is, without running it.

use crate::output;
use anyhow::Result;
use clap::Args;
use ingot::compiler::artifact::{Artifact, WeightsAt};
use ingot::ir::memory::counted;
use ingot::ir::plan::{Plan, VariantId};
use ingot::{Bytes, MemoryTable};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Flags of `ingot inspect`.
#[derive(Args)]
pub(crate) struct InspectArgs {
    /// A compiled file (.ingot)
    #[arg(value_name = "FILE")]
    artifact: PathBuf,
    /// Memory bandwidths in GB/s to tell the expected decode speed for
    #[arg(long, value_name = "GB/S", value_delimiter = ',', default_values_t = [100.0, 400.0, 800.0, 3350.0])]
    bandwidth: Vec<f64>,
    /// Do not compare the weights with their hashes
    #[arg(long)]
    no_verify: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let artifact = Artifact::open(&args.artifact)?;
    artifact.check_sources()?;
    if !args.no_verify {
        artifact.verify_weights(std::thread::available_parallelism().map_or(1, usize::from))?;
    }
    let text =
        if args.json { serde_json::to_string_pretty(&object(&artifact, args))? } else { describe(&artifact, args) };
    output::println(text.trim_end())
}

/// The memory of all the sequences that the plan was compiled for.
fn memory(plan: &Plan) -> MemoryTable {
    MemoryTable::new(plan, plan.max_batch, &plan.pages_for(plan.max_batch, plan.max_context))
}

fn describe(artifact: &Artifact, args: &InspectArgs) -> String {
    let (plan, manifest) = (artifact.plan(), artifact.manifest());
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<12}{text}"));
    line("file", format!("{}, {}, by {}", artifact.path().display(), Bytes(artifact.n_bytes()), manifest.generator));
    line(
        "hash",
        format!(
            "{} (BLAKE3 tree, {})",
            artifact.root(),
            if args.no_verify { "weights not checked" } else { "every byte checked" }
        ),
    );
    line("model", plan.model.clone());
    line("target", plan.target.clone());
    line("tiles", if plan.tiles.is_empty() { "built in".into() } else { plan.tiles.clone() });
    let weights = match manifest.weights {
        WeightsAt::Inside => format!("{}, inside", Bytes(plan.weight_bytes())),
        WeightsAt::Sources => format!("{}, in {}", Bytes(plan.weight_bytes()), sources(artifact)),
        WeightsAt::Elsewhere => format!("{}, not named", Bytes(plan.weight_bytes())),
    };
    line("weights", weights);
    let table = memory(plan).to_string();
    for (ix, row) in table.lines().enumerate() {
        line(if ix == 0 { "memory" } else { "" }, row.into());
    }
    line("KV cache", format!("{} tokens, {}", plan.max_context, plan.kv_type));
    let trust = if plan.is_cpu {
        "native code"
    } else if artifact.is_trusted() {
        "all of them this compiler's own"
    } else {
        "not all of them this compiler's own: they keep their bounds checks"
    };
    line("kernels", format!("{}, {trust}", plan.kernels.len()));
    for (id, variant) in plan.variants.iter() {
        line(
            &format!("variant {id}"),
            format!(
                "up to {}: {} dispatches, {} of weights",
                counted(variant.bounds.tokens.into(), "token"),
                variant.n_dispatches,
                Bytes(plan.weight_bytes_of(id))
            ),
        );
    }
    let bytes = plan.weight_bytes_of(VariantId(0));
    line("one token", format!("{} dispatches, {} of weights", plan.dispatches_of(VariantId(0)).len(), Bytes(bytes)));
    for bandwidth in &args.bandwidth {
        line("", format!("at {bandwidth} GB/s at most {:.0} tokens/s", bandwidth * 1e9 / bytes.max(1) as f64));
    }
    let files: Vec<String> =
        artifact.files().map(|(name, bytes)| format!("{name} ({})", Bytes(bytes.len() as u64))).collect();
    line("files", if files.is_empty() { "none".into() } else { files.join(", ") });
    lines.join("\n")
}

fn sources(artifact: &Artifact) -> String {
    let paths: Vec<String> =
        artifact.manifest().sources.iter().map(|source| source.path.display().to_string()).collect();
    paths.join(", ")
}

fn object(artifact: &Artifact, args: &InspectArgs) -> Value {
    let (plan, manifest) = (artifact.plan(), artifact.manifest());
    let variants: Vec<Value> = plan
        .variants
        .iter()
        .map(|(id, variant)| {
            json!({
                "tokens": variant.bounds.tokens,
                "rows": variant.bounds.rows,
                "dispatches": variant.n_dispatches,
                "weight_bytes": plan.weight_bytes_of(id),
            })
        })
        .collect();
    let bytes = plan.weight_bytes_of(VariantId(0));
    let speeds =
        args.bandwidth.iter().map(|gbs| json!({ "gb_per_s": gbs, "tokens_per_s": gbs * 1e9 / bytes.max(1) as f64 }));
    json!({
        "file": artifact.path().display().to_string(),
        "file_bytes": artifact.n_bytes(),
        "hash": artifact.root(),
        "generator": manifest.generator,
        "model": plan.model,
        "target": plan.target,
        "tiles": plan.tiles,
        "weights": manifest.weights,
        "sources": manifest.sources,
        "memory": memory(plan),
        "memory_total": memory(plan).total(),
        "max_batch": plan.max_batch,
        "context": plan.max_context,
        "kv_dtype": plan.kv_type.to_string(),
        "kernels": plan.kernels.len(),
        "trusted": artifact.is_trusted(),
        "variants": variants,
        "expected_speed": speeds.collect::<Vec<_>>(),
        "files": artifact.files().map(|(name, _)| name).collect::<Vec<_>>(),
    })
}
