//! `ingot quantize --search`: bits by matrix for a target size, with the flags of `mlx_lm.dynamic_quant`.

use super::convert::{stoppable, tell};
use super::perplexity::read_text;
use crate::args::{DeviceArgs, HubArgs, bytes};
use crate::progress::{self, quiet};
use crate::shipped;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use ingot::models::formats::affine::QuantShape;
use ingot::{Cache, Candidates, ConvertOptions, LoadOptions, Sensitivities, Target, Widths, Windows};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Flags of `ingot quantize`.
#[derive(Args)]
pub(crate) struct QuantizeArgs {
    /// Folder of a checkpoint, a GGUF file, a model of the hub as owner/name[:QUANT][@revision], or the name of a shipped model
    #[arg(short, long, alias = "hf-path", value_name = "PATH")]
    model: PathBuf,
    /// The folder to write; it must not exist, and appears once it is whole
    #[arg(long, value_name = "PATH", default_value = "mlx_model")]
    mlx_path: PathBuf,
    /// Measure how sensitive each matrix is, and choose bits by that (for equal bits everywhere: ingot convert -q)
    #[arg(long, required = true)]
    search: bool,
    /// A text file to measure with
    #[arg(long, value_name = "FILE", required_unless_present = "sensitivities")]
    data: Option<PathBuf>,
    /// Tokens of the text that are read together
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    sequence_length: u32,
    /// Windows of so many tokens to measure with, from the beginning of the text
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    num_samples: u32,
    /// Take what was measured before from this file; without the file, measure and write it
    #[arg(long, value_name = "FILE.json")]
    sensitivities: Option<PathBuf>,
    /// Bits a weight of the result, scales and all else included
    #[arg(long, value_name = "BITS", default_value_t = 5.0, conflicts_with = "target_size")]
    target_bpw: f64,
    /// Bytes of the result's weights, e.g. 4.5G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    target_size: Option<u64>,
    /// Fewest bits of a matrix
    #[arg(long, value_name = "N", default_value_t = 4)]
    low_bits: u32,
    /// Most bits of a matrix
    #[arg(long, value_name = "N", default_value_t = 5)]
    high_bits: u32,
    /// Columns a scale
    #[arg(long, value_name = "N", default_value_t = 64)]
    group_size: u32,
    #[command(flatten)]
    hub: HubArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// Runs the command. `started` is when the process started.
pub(crate) fn run(args: &QuantizeArgs, started: Instant) -> Result<()> {
    if args.mlx_path.exists() {
        bail!("{} exists already; name another folder, or remove it", args.mlx_path.display());
    }
    let widths = Widths::new(args.low_bits, args.high_bits, args.group_size).map_err(|why| anyhow!(why))?;
    let target = args.target_size.map_or(Target::BitsPerWeight(args.target_bpw), Target::Bytes);
    let kept = args.sensitivities.as_deref().filter(|path| path.exists()).map(read).transpose()?;
    let text = match (&kept, &args.data) {
        (Some(_), _) => String::new(),
        (None, Some(data)) => read_text(data)?,
        (None, None) => bail!("there are no sensitivities yet; measure them with --data FILE"),
    };
    let folder = shipped::folder(Some(&args.model), &args.hub)?;
    let candidates = Candidates::measure(&folder, widths, &mut *quiet(progress::count("comparing widths")))?;
    let shape = candidates.equal(target).map_err(|why| anyhow!(why))?;
    let (sensitivities, saved) = match kept {
        Some(kept) => (kept, Ok(())),
        None => measure(args, &folder, &text, &candidates, shape)?,
    };
    let place = args.sensitivities.as_ref().map_or(String::new(), |path| format!("{}: ", path.display()));
    let recipe = candidates.recipe(&sensitivities, target).map_err(|why| anyhow!("{place}{why}"))?;
    let options = ConvertOptions { quantize: Some(recipe), ..ConvertOptions::default() };
    let converted = stoppable("quantizing", |told| ingot::convert(&folder, &args.mlx_path, &options, told))?;
    tell(&args.mlx_path, &converted, started, args.json)?;
    saved
}

/// The sensitivities, and whether they could be kept: the model is written whether or not.
fn measure(
    args: &QuantizeArgs,
    folder: &Path,
    text: &str,
    candidates: &Candidates,
    shape: QuantShape,
) -> Result<(Sensitivities, Result<()>)> {
    let windows = Windows { n_tokens: args.sequence_length as usize, most: Some(args.num_samples as usize) };
    let mut device = args.device.clone();
    device.make_room(1, args.sequence_length);
    // One bar tells of all models, and the plan of none is needed again.
    let mut load = || LoadOptions { progress: None, cache: Cache::Off, ..device.options() };
    let mut bar = quiet(progress::count("measuring"));
    let matrices = &candidates.matrices;
    let found = ingot::sensitivities(folder, matrices, shape, text, windows, &mut load, &mut *bar)?;
    let keep = |path: &PathBuf| {
        let json = serde_json::to_string(&found)?;
        std::fs::write(path, json).with_context(|| format!("{} cannot be written", path.display()))
    };
    let saved = args.sensitivities.as_ref().map_or(Ok(()), keep);
    Ok((found, saved))
}

/// What `mlx_lm.dynamic_quant` reads and writes too: a list of paths with their numbers.
fn read(path: &Path) -> Result<Sensitivities> {
    let text = read_text(path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is no list of sensitivities", path.display()))
}
