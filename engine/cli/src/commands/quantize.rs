//! `ingot quantize --search`: bits by matrix for a target size, with the flags of `mlx_lm.dynamic_quant`.

use super::convert::{line, object, stoppable};
use super::perplexity::{Samples, read_text, samples};
use crate::args::{DeviceArgs, HubArgs, bytes};
use crate::progress::{self, quiet};
use crate::{output, shipped};
use anyhow::{Context, Result, bail};
use clap::Args;
use ingot::models::formats::affine::QuantShape;
use ingot::{Cache, Candidates, ConvertOptions, LoadOptions, Mean, Model, Sensitivities, Target, Widths, Windows};
use serde_json::json;
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
    /// Windows of so many tokens to measure with, -1 for all of them
    #[arg(long, value_name = "N", default_value = "4", allow_negative_numbers = true, value_parser = samples)]
    num_samples: Samples,
    /// Which windows: they are drawn from the whole text by this number
    #[arg(long, value_name = "N", default_value_t = 123)]
    seed: u64,
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
    /// Columns a scale, unless the next two say otherwise
    #[arg(long, value_name = "N", default_value_t = 64)]
    group_size: u32,
    /// Columns a scale of a matrix with the fewest bits; matrices of whole such groups are quantized [default: --group-size]
    #[arg(long, value_name = "N")]
    low_group_size: Option<u32>,
    /// Columns a scale of a matrix with the most bits; those between have either [default: --group-size]
    #[arg(long, value_name = "N")]
    high_group_size: Option<u32>,
    /// Tell the perplexities of the windows in the model before and after
    #[arg(long, requires = "data")]
    report_ppl: bool,
    #[command(flatten)]
    hub: HubArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

impl QuantizeArgs {
    fn widths(&self) -> Result<Widths> {
        let shape = |bits: u32, group: Option<u32>| QuantShape { bits, group: group.unwrap_or(self.group_size) };
        let (low, high) = (shape(self.low_bits, self.low_group_size), shape(self.high_bits, self.high_group_size));
        Ok(Widths::between(low, high)?)
    }
    fn windows(&self) -> Windows {
        let n_tokens = self.sequence_length as usize;
        Windows { n_tokens, most: self.num_samples.0, seed: Some(self.seed) }
    }
    /// How models are loaded: one after the other, without a bar of their own.
    fn load(&self) -> LoadOptions {
        let mut device = self.device.clone();
        device.make_room(1, self.sequence_length);
        // The plan of none is needed again.
        LoadOptions { progress: None, cache: Cache::Off, ..device.options() }
    }
}

/// Runs the command. `started` is when the process started.
pub(crate) fn run(args: &QuantizeArgs, started: Instant) -> Result<()> {
    if args.mlx_path.exists() {
        bail!("{} exists already; name another folder, or remove it", args.mlx_path.display());
    }
    args.sensitivities.as_deref().map_or(Ok(()), output::check_place)?;
    let widths = args.widths()?;
    let target = args.target_size.map_or(Target::BitsPerWeight(args.target_bpw), Target::Bytes);
    let kept = args.sensitivities.as_deref().filter(|path| path.exists()).map(read).transpose()?;
    let text = match &args.data {
        Some(data) if kept.is_none() || args.report_ppl => read_text(data)?,
        None if kept.is_none() => bail!("there are no sensitivities yet; measure them with --data FILE"),
        _ => String::new(),
    };
    let folder = shipped::folder(Some(&args.model), &args.hub)?;
    let perplexity = |path: &Path, name: &str| perplexity(args, path, &text, name);
    let before = args.report_ppl.then(|| perplexity(&folder, "Original")).transpose()?;
    let candidates = Candidates::measure(&folder, widths, &mut *quiet(progress::count("comparing widths")))?;
    let shape = candidates.equal(target)?;
    let (sensitivities, saved) = match kept {
        Some(kept) => (kept, Ok(())),
        None => measure(args, &folder, &text, &candidates, shape)?,
    };
    let place = args.sensitivities.as_ref().map_or(String::new(), |path| format!("{}: ", path.display()));
    let recipe = candidates.recipe(&sensitivities, target).map_err(|why| anyhow::anyhow!("{place}{why}"))?;
    let options = ConvertOptions { quantize: Some(recipe), ..ConvertOptions::default() };
    let converted = stoppable("quantizing", |told| ingot::convert(&folder, &args.mlx_path, &options, told))?;
    let seconds = started.elapsed().as_secs_f64();
    // The model is written by now: it is told whatever comes of its perplexity.
    let after = args.report_ppl.then(|| perplexity(&args.mlx_path, "Quantized")).transpose();
    if args.json {
        let mut report = object(&args.mlx_path, &converted, seconds);
        for (key, nll) in [("original", before), ("quantized", after.as_ref().ok().copied().flatten())] {
            if let Some((perplexity, error)) = nll.map(|nll| nll.exp()) {
                report[key] = json!({ "perplexity": perplexity, "standard_error": error });
            }
        }
        output::println(&report.to_string())?;
    } else {
        output::println(&line(&args.mlx_path, &converted, seconds))?;
    }
    after.and(saved)
}

/// The perplexity of a model, in the windows that are measured with; printed under `name` where a person reads.
fn perplexity(args: &QuantizeArgs, path: &Path, text: &str, name: &str) -> Result<Mean> {
    let mut model = Model::load(path, args.load())?;
    let nll = model.perplexity(text, args.windows(), &mut *quiet(progress::count("perplexity")))?;
    if !args.json {
        let (perplexity, error) = nll.exp();
        output::println(&format!("{name} PPL: {perplexity:.3} ± {error:.3}"))?;
    }
    Ok(nll)
}

/// The sensitivities, and whether they could be kept: the model is written whether or not.
fn measure(
    args: &QuantizeArgs,
    folder: &Path,
    text: &str,
    candidates: &Candidates,
    shape: QuantShape,
) -> Result<(Sensitivities, Result<()>)> {
    let mut bar = quiet(progress::count("measuring"));
    let matrices = &candidates.matrices;
    let found = ingot::sensitivities(folder, matrices, shape, text, args.windows(), &mut || args.load(), &mut *bar)?;
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
