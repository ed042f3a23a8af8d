//! `ingot explain`: what the compiler makes of a model, as text, kernels or pictures.

use crate::args::PathArgs;
use crate::{args, output};
use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use ingot::compiler::emit::{self, Content, File, Language};
use ingot::compiler::pass::limit_kv;
use ingot::compiler::pipeline::STAGES;
use ingot::compiler::{Options, Stage, explain};
use ingot::ir::graph::Graph;
use ingot::{RandomShape, Tiles};
use std::path::{Path, PathBuf};

/// Flags of `ingot explain`.
#[derive(Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    model: PathArgs,
    /// A model of a published shape instead: smollm2-135m, llama-1b, llama-8b, llama-70b,
    /// qwen3-30b-a3b, in 4 bits or in the format after a colon, e.g. llama-8b:mxfp4
    #[arg(long, value_name = "SHAPE", value_parser = args::shape, conflicts_with = "model")]
    random: Option<RandomShape>,
    /// What to compile for
    #[arg(long, default_value = "vulkan", value_parser = PossibleValuesParser::new(args::TARGETS))]
    target: String,
    /// Tiles of matrix products: stored (what `ingot tune` kept for `this`), builtin, or a file that it wrote
    #[arg(long, value_name = "TILES", default_value = "stored")]
    tiles: Tiles,
    /// Print the representation after this stage [default: plan; of pictures: lower]
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(STAGES.iter().map(name)))]
    stop_after: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Emit::Text)]
    emit: Emit,
    /// Draw one decoder layer, counted from 0 (svg only)
    #[arg(long, value_name = "N")]
    layer: Option<u32>,
    /// Write files into this folder instead: one a kernel, stage or picture
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Longest sequence in tokens [default: the model's, at most 8192; with --max-kv-size 131072]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Sequences at one time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=args::MAX_BATCH))]
    max_batch: u32,
    #[command(flatten)]
    kv: args::KvArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// The representation's text form
    Text,
    /// The kernels of the plan
    Wgsl,
    /// The kernels in Metal's language
    Msl,
    /// The kernels as SPIR-V (with --output)
    Spirv,
    /// The graph, or the kernels, as a picture
    Svg,
}

impl Emit {
    /// The language of kernels, if it is kernels.
    fn language(self) -> Option<Language> {
        match self {
            Self::Wgsl => Some(Language::Wgsl),
            Self::Msl => Some(Language::Msl),
            Self::Spirv => Some(Language::Spirv),
            Self::Text | Self::Svg => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> Result<()> {
    check(args)?;
    let mut target = args::target(&args.target, &args.tiles)?;
    target.kv_type = args.kv.kv_type().unwrap_or(target.kv_type);
    let (mut graph, most) = graph(args)?;
    if let Some(max) = args.kv.max_kv_size {
        graph = limit_kv::run(&graph, max);
    }
    let is_limited = args.kv.max_kv_size.is_some();
    let max_context = args.context.unwrap_or_else(|| ingot::default_context(most, is_limited));
    let options = Options { max_batch: args.max_batch, ..Options::new(max_context) };
    let stage = args.stop_after.as_deref().map(stage);
    let files = match args.emit.language() {
        Some(language) => emit::kernels(&graph, &target, options, language)?,
        None if args.emit == Emit::Svg => {
            emit::pictures(&graph, &target, options, stage.unwrap_or(STAGES[0]), args.layer)?
        }
        None => {
            let stage = stage.unwrap_or(Stage::Plan);
            let text = explain(&graph, &target, options, stage)?;
            let content = Content::Text(format!("{}\n", text.trim_end()));
            vec![File { name: format!("{}.txt", name(&stage)), content }]
        }
    };
    match &args.output {
        Some(folder) => write(folder, &files),
        // Of pictures the first: one file holds one.
        None if args.emit == Emit::Svg => print(&files[..files.len().min(1)]),
        None => print(&files),
    }
}

/// Refuses flags that do not go together.
fn check(args: &ExplainArgs) -> Result<()> {
    let misuse = |why: String| Err(clap::Error::raw(ErrorKind::ArgumentConflict, why).into());
    let emit = args.emit.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    if args.emit.language().is_some() {
        if args.target == "cpu" {
            let why = "whose kernels are native code";
            return misuse(format!("--emit {emit} cannot be used with --target cpu, {why}\n"));
        }
        if args.stop_after.is_some() {
            return misuse(format!("--emit {emit} cannot be used with --stop-after: kernels are the plan's\n"));
        }
    }
    if args.emit == Emit::Spirv && args.output.is_none() {
        return misuse("--emit spirv writes binary files: say where with --output DIR\n".into());
    }
    if args.layer.is_some() && args.emit != Emit::Svg {
        return misuse(format!("--layer chooses what a picture shows: it needs --emit svg, not {emit}\n"));
    }
    Ok(())
}

fn print(files: &[File]) -> Result<()> {
    for (ix, file) in files.iter().enumerate() {
        // A blank line between kernels.
        let gap = if ix > 0 { "\n" } else { "" };
        match &file.content {
            Content::Text(text) => output::println(&format!("{gap}{}", text.trim_end()))?,
            Content::Binary(_) => bail!("{} is binary; name a folder with --output", file.name),
        }
    }
    Ok(())
}

fn write(folder: &Path, files: &[File]) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for file in files {
        let path = folder.join(&file.name);
        let bytes = match &file.content {
            Content::Text(text) => text.as_bytes(),
            Content::Binary(bytes) => bytes,
        };
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        output::println(&path.display().to_string())?;
    }
    Ok(())
}

/// The model's graph and its longest context.
fn graph(args: &ExplainArgs) -> Result<(Graph, u32)> {
    if let Some(shape) = &args.random {
        return Ok((shape.graph()?, shape.max_context));
    }
    let model = ingot::models::Model::open(&args.model.folder()?)?;
    Ok((model.graph()?, model.spec.max_position_embeddings))
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
