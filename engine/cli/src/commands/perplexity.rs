//! `ingot perplexity`: how well a model predicts a text.

use crate::args::{DeviceArgs, ModelArgs};
use crate::{output, progress};
use anyhow::{Context, Result};
use clap::Args;
use ingot::Windows;
use ingot::ir::memory::counted;
use serde_json::json;
use std::path::{Path, PathBuf};

/// A text and how it is cut.
#[derive(Args)]
pub(crate) struct DataArgs {
    /// A text file
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Tokens that are read together; each is predicted from those before it
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    sequence_length: u32,
    /// Use so many windows of the text, -1 for all of them
    #[arg(long, value_name = "N", default_value = "-1", allow_negative_numbers = true, value_parser = samples)]
    num_samples: Samples,
    /// Draw those windows from the whole text by this number [default: the first ones]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl DataArgs {
    pub(crate) fn text(&self) -> Result<String> {
        read_text(&self.data)
    }
    pub(crate) fn windows(&self) -> Windows {
        Windows { n_tokens: self.sequence_length as usize, most: self.num_samples.0, seed: self.seed }
    }
    pub(crate) fn length(&self) -> u32 {
        self.sequence_length
    }
}

/// How many windows: all, or at most so many.
#[derive(Clone, Copy)]
pub(crate) struct Samples(pub Option<usize>);

/// A number of windows as mlx-lm has it.
pub(crate) fn samples(text: &str) -> Result<Samples, String> {
    match text.parse() {
        Ok(-1) => Ok(Samples(None)),
        Ok(n @ 1..=0xFFFF_FFFF_i64) => Ok(Samples(Some(n as usize))),
        _ => Err("write a number above 0, or -1 for all windows".into()),
    }
}

/// A text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read as text", path.display()))
}

/// What the figure is, beside those of other programs.
const CUT: &str = "The figure is the exponential of the mean negative log-probability of the text's tokens. The text is cut into windows of --sequence-length tokens, each of which begins with what the tokenizer puts before a text. All \
    tokens of a window that have one before them count. llama-perplexity of llama.cpp counts the second half of each window \
    alone, so its figures are lower; mlx_lm.perplexity counts whole windows too, of many texts laid end to end, with nothing \
    put before a window. Compare figures of one program, of the same text and length.";

/// Flags of `ingot perplexity`.
#[derive(Args)]
#[command(after_long_help = CUT)]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &PerplexityArgs) -> Result<()> {
    let text = args.data.text()?;
    let mut device = args.device.clone();
    device.make_room(1, args.data.length());
    let mut model = device.load(&args.model.folder()?)?;
    let mut bar = progress::count("windows");
    let mut told = |done, total| {
        if let Some(bar) = &mut bar {
            bar(done, total);
        }
    };
    let nll = model.perplexity(&text, args.data.windows(), &mut told)?;
    drop(bar);
    let (perplexity, error) = nll.exp();
    if args.json {
        let report = json!({
            "perplexity": perplexity, "standard_error": error,
            "nll": nll.mean(), "nll_standard_error": nll.standard_error(), "tokens": nll.n(),
        });
        return output::println(&report.to_string());
    }
    output::println(&format!("Perplexity: {perplexity:.4} ± {error:.4} ({})", counted(nll.n() as u64, "token")))
}
