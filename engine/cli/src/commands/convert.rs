//! `ingot convert`: a checkpoint in MLX's layout, with the flags of `mlx_lm.convert`; or as a GGUF file.

use crate::args::HubArgs;
use crate::{interrupt, output, progress, shipped};
use anyhow::{Result, anyhow};
use clap::Args;
use clap::builder::PossibleValuesParser;
use ingot::ir::memory::counted;
use ingot::models::formats::safetensors::StoredType;
use ingot::{Bytes, ConvertOptions, Converted, GgufType, Recipe};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Flags of `ingot convert`.
#[derive(Args)]
pub(crate) struct ConvertArgs {
    /// Folder of a checkpoint, a GGUF file, a model of the hub as owner/name[:QUANT][@revision], or the name of a shipped model
    #[arg(long, alias = "model", value_name = "PATH")]
    hf_path: PathBuf,
    /// The folder to write; it must not exist, and appears once it is whole
    #[arg(long, value_name = "PATH", default_value = "mlx_model")]
    mlx_path: PathBuf,
    /// Write a GGUF file instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mlx_path", "quantize", "dequantize", "dtype"])]
    gguf_path: Option<PathBuf>,
    /// Type of the matrices in a GGUF file
    #[arg(long, value_name = "TYPE", default_value = "f16", requires = "gguf_path", value_parser = PossibleValuesParser::new(GgufType::NAMES))]
    gguf_type: String,
    /// Take every number over as it is, and refuse what would lose something: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and MXFP4 of GGUF are
    /// MLX's affine mode with 4, 5 and 8 bits and its mxfp4
    #[arg(long, conflicts_with_all = ["quantize", "dequantize", "dtype", "gguf_type"])]
    repack: bool,
    /// Quantize matrices
    #[arg(short, long, conflicts_with = "dequantize")]
    quantize: bool,
    /// Bits a code [default: 4, or what the mode fixes]
    #[arg(long, value_name = "N", requires = "quantize")]
    q_bits: Option<u32>,
    /// Columns a scale [default: 64, or what the mode fixes]
    #[arg(long, value_name = "N", requires = "quantize")]
    q_group_size: Option<u32>,
    /// Quantization mode
    #[arg(long, value_name = "MODE", default_value = "affine", requires = "quantize", value_parser = ["affine", "mxfp4", "nvfp4", "mxfp8"])]
    q_mode: String,
    /// A recipe of mixed widths
    #[arg(long, value_name = "RECIPE", requires = "quantize", value_parser = PossibleValuesParser::new(Recipe::MIXED))]
    quant_predicate: Option<String>,
    /// Type of everything that is not quantized [default: config.json's torch_dtype, else as it is]
    #[arg(long, value_name = "TYPE", value_parser = ["float16", "bfloat16", "float32"])]
    dtype: Option<String>,
    /// Make quantized matrices floats
    #[arg(short, long)]
    dequantize: bool,
    #[command(flatten)]
    hub: HubArgs,
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// Runs the command. `started` is when the process started.
pub(crate) fn run(args: &ConvertArgs, started: Instant) -> Result<()> {
    let recipe = |()| Recipe::new(&args.q_mode, args.q_bits, args.q_group_size, args.quant_predicate.as_deref());
    let quantize = args.quantize.then_some(()).map(recipe).transpose()?;
    let dtype = args.dtype.as_deref().map(|name| match name {
        "float16" => StoredType::F16,
        "bfloat16" => StoredType::Bf16,
        _ => StoredType::F32,
    });
    let options = ConvertOptions { quantize, dequantize: args.dequantize, dtype, repack: args.repack };
    let folder = shipped::folder(Some(&args.hf_path), &args.hub)?;
    let kind = if args.repack { Some(GgufType::Repack) } else { GgufType::parse(&args.gguf_type) };
    let kind = kind.ok_or_else(|| anyhow!("there is no type `{}`", args.gguf_type))?;
    let out = args.gguf_path.as_ref().unwrap_or(&args.mlx_path);
    let converted = stoppable("converting", |told| match &args.gguf_path {
        None => ingot::convert(&folder, out, &options, told),
        Some(_) => ingot::convert_gguf(&folder, out, kind, told),
    })?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        return output::println(&object(out, &converted, seconds).to_string());
    }
    output::println(&line(out, &converted, seconds))
}

type Written = Result<Converted, ingot::models::Error>;

/// Runs what writes a model, with a bar. After Ctrl-C the program ends, and nothing is left behind.
pub(crate) fn stoppable(
    verb: &'static str,
    write: impl FnOnce(&mut dyn FnMut(u64, u64) -> bool) -> Written,
) -> Result<Converted> {
    let mut bar = progress::bar(verb);
    let mut told = |done, total| {
        if let Some(bar) = &mut bar {
            bar(done, total);
        }
        !interrupt::pressed()
    };
    interrupt::install()?;
    let converted = write(&mut told);
    drop(bar);
    match converted {
        Err(error @ ingot::models::Error::Stopped { .. }) => {
            output::report(&error.into());
            std::process::exit(interrupt::EXIT_INTERRUPTED)
        }
        converted => Ok(converted?),
    }
}

/// What was written, for programs.
pub(crate) fn object(out: &Path, converted: &Converted, seconds: f64) -> Value {
    json!({
        "path": out.display().to_string(),
        "bytes": converted.n_bytes,
        "files": converted.n_files,
        "bits_per_weight": converted.bits_per_weight(),
        "seconds": seconds,
    })
}

/// What was written.
pub(crate) fn line(out: &Path, converted: &Converted, seconds: f64) -> String {
    format!(
        "{}: {} in {}, {:.3} bits per weight, {seconds:.1} s",
        out.display(),
        Bytes(converted.n_bytes),
        counted(converted.n_files as u64, "file"),
        converted.bits_per_weight(),
    )
}
