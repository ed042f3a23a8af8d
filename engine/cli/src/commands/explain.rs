//! `ingot explain`: what the compiler makes of a model, as text.

use crate::{args, output, shipped};
use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use ingot::RandomShape;
use ingot::compiler::pipeline::STAGES;
use ingot::compiler::{Options, Stage, TargetProfile, compile, explain};
use ingot::ir::graph::Graph;
use std::path::PathBuf;

/// Flags of `ingot explain`.
#[derive(Args)]
pub(crate) struct ExplainArgs {
    /// Folder of a checkpoint, or the name of a shipped model [default: ingot-tales-14m]
    model: Option<PathBuf>,
    /// A model of a published shape instead: smollm2-135m, llama-1b, llama-8b, llama-70b
    #[arg(long, value_name = "SHAPE", value_parser = args::shape, conflicts_with = "model")]
    random: Option<RandomShape>,
    /// What to compile for
    #[arg(long, default_value = "vulkan", value_parser = PossibleValuesParser::new(TARGETS))]
    target: String,
    /// Print the representation after this stage [default: plan]
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(STAGES.iter().map(name)), conflicts_with = "emit")]
    stop_after: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Emit::Text)]
    emit: Emit,
    /// Longest sequence in tokens [default: the model's, at most 8192]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// The representation's text form
    Text,
    /// The kernels of the plan
    Wgsl,
}

const TARGETS: [&str; 5] = ["cpu", "vulkan", "apple", "lavapipe", "webgpu"];

/// Longest sequence unless told otherwise, as when a model is loaded.
const DEFAULT_CONTEXT: u32 = 8192;

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> Result<()> {
    if args.emit == Emit::Wgsl && args.target == "cpu" {
        let why = "--emit wgsl cannot be used with --target cpu, whose kernels are native code\n";
        return Err(clap::Error::raw(ErrorKind::ArgumentConflict, why).into());
    }
    let (graph, most) = graph(args)?;
    let Some(target) = TargetProfile::preset(&args.target) else {
        bail!("unknown target `{}`", args.target);
    };
    let options = Options { max_context: args.context.unwrap_or_else(|| most.min(DEFAULT_CONTEXT)) };
    match args.emit {
        Emit::Text => {
            let stage = args.stop_after.as_deref().map_or(Stage::Plan, stage);
            output::println(explain(&graph, &target, options, stage)?.trim_end())
        }
        Emit::Wgsl => kernels(&graph, &target, options),
    }
}

/// The model's graph and its longest context.
fn graph(args: &ExplainArgs) -> Result<(Graph, u32)> {
    if let Some(shape) = &args.random {
        return Ok((shape.graph(), shape.max_context));
    }
    let model = ingot::models::Model::open(&shipped::folder(args.model.as_deref())?)?;
    Ok((model.graph()?, model.spec.max_position_embeddings))
}

fn kernels(graph: &Graph, target: &TargetProfile, options: Options) -> Result<()> {
    let plan = compile(graph, target, options)?;
    let text = plan.to_string();
    for (id, kernel) in plan.kernels.iter() {
        // The kernel's line in the plan tells its template, slots and constants.
        let head = format!("{id} = ");
        let line = text.lines().find(|line| line.starts_with(&head)).unwrap_or_default();
        output::println(&format!("// {line}\n{}\n", kernel.wgsl.trim_end()))?;
    }
    Ok(())
}

fn name(stage: &Stage) -> &'static str {
    match stage {
        Stage::Graph(name) | Stage::Kernels(name) => name,
        Stage::Plan => "plan",
    }
}

fn stage(wanted: &str) -> Stage {
    STAGES.iter().copied().find(|stage| name(stage) == wanted).unwrap_or(Stage::Plan)
}
