//! `ingot convert`: a checkpoint in MLX's layout, with the flags of `mlx_lm.convert`.

use crate::args::HubArgs;
use crate::{output, progress, shipped};
use anyhow::{Result, anyhow};
use clap::Args;
use clap::builder::PossibleValuesParser;
use ingot::models::formats::safetensors::StoredType;
use ingot::{Bytes, ConvertOptions, Converted, Recipe};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Flags of `ingot convert`.
#[derive(Args)]
pub(crate) struct ConvertArgs {
    /// Folder of a checkpoint, a GGUF file, a model of the hub as owner/name[@revision], or the name of a shipped model
    #[arg(long, alias = "model", value_name = "PATH")]
    hf_path: PathBuf,
    /// The folder to write; it must not exist, and appears once it is whole
    #[arg(long, value_name = "PATH", default_value = "mlx_model")]
    mlx_path: PathBuf,
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
    #[arg(long, value_name = "MODE", default_value = "affine", value_parser = ["affine", "mxfp4", "nvfp4", "mxfp8"])]
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
}

/// Runs the command. `started` is when the process started.
pub(crate) fn run(args: &ConvertArgs, started: Instant) -> Result<()> {
    let recipe = |()| Recipe::new(&args.q_mode, args.q_bits, args.q_group_size, args.quant_predicate.as_deref());
    let quantize = args.quantize.then_some(()).map(recipe).transpose().map_err(|why| anyhow!(why))?;
    let dtype = args.dtype.as_deref().map(|name| match name {
        "float16" => StoredType::F16,
        "bfloat16" => StoredType::Bf16,
        _ => StoredType::F32,
    });
    let options = ConvertOptions { quantize, dequantize: args.dequantize, dtype };
    let mut bar = progress::bar("converting");
    let mut told = |done, total| {
        if let Some(bar) = &mut bar {
            bar(done, total);
        }
    };
    let folder = shipped::folder(Some(&args.hf_path), &args.hub)?;
    let converted = ingot::convert(&folder, &args.mlx_path, &options, &mut told)?;
    drop(bar);
    tell(&args.mlx_path, &converted, started)
}

/// Prints what was written.
pub(crate) fn tell(folder: &Path, converted: &Converted, started: Instant) -> Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    output::println(&format!(
        "{}: {} in {} {}, {:.3} bits per weight, {seconds:.1} s",
        folder.display(),
        Bytes(converted.n_bytes),
        converted.n_files,
        if converted.n_files == 1 { "file" } else { "files" },
        converted.bits_per_weight(),
    ))
}
