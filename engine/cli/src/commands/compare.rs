//! `ingot compare`: how far the predictions of two models are apart, e.g. of two formats of one model.

use super::perplexity::DataArgs;
use crate::args::{DeviceArgs, HubArgs};
use crate::{output, progress, shipped};
use anyhow::{Context, Result};
use clap::Args;
use ingot::{Comparison, Mean};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// Flags of `ingot compare`.
#[derive(Args)]
pub(crate) struct CompareArgs {
    /// The model that is right: a folder, a GGUF file, a compiled file (.ingot), a model of the hub as owner/name[:QUANT][@revision], or the
    /// name of a shipped model
    a: PathBuf,
    /// The model that is compared with it
    b: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    hub: HubArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Also write one line a token: position, token, both negative log-probabilities, KL divergence, whether the most
    /// probable tokens are the same
    #[arg(long, value_name = "FILE.csv")]
    per_token: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    let text = args.data.text()?;
    args.per_token.as_deref().map_or(Ok(()), output::check_place)?;
    let mut device = args.device.clone();
    device.make_room(1, args.data.length());
    let mut a = device.load(&shipped::folder(Some(&args.a), &args.hub)?)?;
    let mut b = device.load(&shipped::folder(Some(&args.b), &args.hub)?)?;
    let mut bar = progress::count("windows");
    let mut told = |done, total| {
        if let Some(bar) = &mut bar {
            bar(done, total);
        }
    };
    let found = ingot::compare(&mut a, &mut b, &text, args.data.windows(), &mut told)?;
    drop(bar);
    if args.json {
        output::println(&report(&found).to_string())?
    } else {
        output::println(&table(&found))?
    }
    if let Some(path) = &args.per_token {
        std::fs::write(path, csv(&found)).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

fn csv(found: &Comparison) -> String {
    let mut text = String::from("position,token,nll_a,nll_b,kl,same_top\n");
    for at in &found.positions {
        let _ =
            writeln!(text, "{},{},{},{},{},{}", at.index, at.token, at.nll_a, at.nll_b, at.kl, u8::from(at.same_top));
    }
    text
}

fn report(found: &Comparison) -> Value {
    let mean = |mean: Mean| json!({ "mean": mean.mean(), "standard_error": mean.standard_error() });
    let perplexity = |nll: Mean| {
        let (value, standard_error) = nll.exp();
        json!({ "perplexity": value, "standard_error": standard_error })
    };
    json!({
        "tokens": found.positions.len(),
        "a": perplexity(found.nll_a()),
        "b": perplexity(found.nll_b()),
        "kl": mean(found.kl()),
        "kl_median": found.kl_quantile(0.5),
        "kl_99": found.kl_quantile(0.99),
        "kl_max": found.kl_quantile(1.0),
        "same_top": mean(found.same_top()),
    })
}

fn table(found: &Comparison) -> String {
    let perplexity = |nll: Mean| {
        let (value, error) = nll.exp();
        format!("{value:.4} ± {error:.4}")
    };
    let (kl, same) = (found.kl(), found.same_top());
    format!(
        "Perplexity of A:    {}\nPerplexity of B:    {}\nKL divergence:      {:.6} ± {:.6} (median {:.6}, 99 % {:.6}, greatest {:.6})\nSame top token:     {:.3} ± {:.3} %\nTokens:             {}",
        perplexity(found.nll_a()),
        perplexity(found.nll_b()),
        kl.mean(),
        kl.standard_error(),
        found.kl_quantile(0.5),
        found.kl_quantile(0.99),
        found.kl_quantile(1.0),
        100.0 * same.mean(),
        100.0 * same.standard_error(),
        found.positions.len(),
    )
}
