//! `ingot tune`: the fastest tiles of every matrix product of a model, measured on this device and kept for it.

use crate::args::PathArgs;
use crate::{args, output};
use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ingot::ir::memory::counted;
use ingot::{DeviceChoice, RandomShape, TuneOptions, TuneProgress, Tuned, TunedShape};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;

/// Flags of `ingot tune`.
#[derive(Args)]
pub(crate) struct TuneArgs {
    #[command(flatten)]
    model: PathArgs,
    /// A model of a published shape with random weights instead: smollm2-135m, llama-1b, llama-8b, llama-70b,
    /// qwen3-30b-a3b, in 4 bits or in the format after a colon, e.g. llama-8b:mxfp4
    #[arg(long, value_name = "SHAPE", value_parser = args::shape, conflicts_with = "model")]
    random: Option<RandomShape>,
    /// auto, gpu, or a part of an adapter's name (see `ingot devices`)
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Write the table to this file alone [default: add it to what is kept for the device]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Measure steps of one token alone, and fewer tiles
    #[arg(long)]
    quick: bool,
    /// Tiles a shape at most, besides the default ones
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &TuneArgs) -> Result<()> {
    let mut bar = Bar::default();
    let options = TuneOptions {
        device: args.device.clone(),
        quick: args.quick,
        max_candidates: args.limit,
        output: args.output.clone(),
        progress: Some(&mut |now| bar.show(now)),
    };
    let tuned = match &args.random {
        Some(shape) => ingot::tune_random(shape, options),
        None => ingot::tune(&args.model.folder()?, options),
    };
    bar.clear();
    let tuned = tuned?;
    output::println(&if args.json { object(&tuned).to_string() } else { summary(&tuned) })
}

fn object(tuned: &Tuned) -> Value {
    let shape = |found: &TunedShape| {
        json!({
            "row": found.row,
            "weight_bytes": found.weight_bytes,
            "measured": found.n_measured,
            "wrong": found.n_wrong,
        })
    };
    json!({
        "device": tuned.table.device,
        "table": tuned.table.id(),
        "file": tuned.path.display().to_string(),
        "shapes": tuned.shapes.iter().map(shape).collect::<Vec<_>>(),
    })
}

fn summary(tuned: &Tuned) -> String {
    let name = |found: &TunedShape| {
        let shape = &found.row.shape;
        let rows = if shape.rows == 0 { String::new() } else { format!(" x{}", shape.rows) };
        format!("{}{rows} {} x {} {}", shape.template, shape.n, shape.k, shape.weight)
    };
    let width = tuned.shapes.iter().map(|found| name(found).len()).max().unwrap_or(0).max("shape".len());
    let mut lines = vec![format!(
        "{:<width$}  {:>10}  {:>10}  {:>6}  {:>7}  tiles",
        "shape", "default us", "best us", "gain", "GB/s"
    )];
    for found in &tuned.shapes {
        let row = &found.row;
        let tiles: Vec<String> = row.tiles.iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.push(format!(
            "{:<width$}  {:>10.2}  {:>10.2}  {:>5.0}%  {:>7.2}  {}",
            name(found),
            row.default_us,
            row.us,
            (row.default_us / row.us.max(1e-3) - 1.0) * 100.0,
            found.weight_bytes as f64 / row.us.max(1e-3) / 1e3,
            tiles.join(" "),
        ));
    }
    let n_measured: usize = tuned.shapes.iter().map(|found| found.n_measured).sum();
    let n_wrong: usize = tuned.shapes.iter().map(|found| found.n_wrong).sum();
    let wrong = if n_wrong == 0 { String::new() } else { format!(", {n_wrong} gave another result and were left out") };
    lines.push(format!("{} measured on {}{wrong}", counted(n_measured as u64, "kernel"), tuned.table.device));
    lines.push(format!(
        "{}: {} ({})",
        tuned.path.display(),
        tuned.table.id(),
        counted(tuned.table.rows.len() as u64, "shape")
    ));
    lines.join("\n")
}

/// A bar on standard error, if that is a terminal.
#[derive(Default)]
struct Bar(Option<ProgressBar>);

impl Bar {
    fn show(&mut self, now: &TuneProgress) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.0.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("measuring {wide_bar} {msg}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(now.n_candidates as u64);
        bar.set_position(now.candidate as u64);
        bar.set_message(format!("{} of {}: {} x {}", now.ix + 1, now.n_shapes, now.shape.n, now.shape.k));
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
