//! `ingot bench`: prefill and decode speed, with what the plan costs a token and what the device could do at most.
//!
//! Prompts are made-up token ids; answers never end early, and are greedy unless flags say otherwise. A prefill of P tokens is timed from the
//! request to its first token, a decode of G tokens from the moment when every sequence has its first token.

mod html;
mod peer;
mod report;
mod row;

use crate::args::{self, DeviceArgs, FormArgs, PathArgs, SamplingArgs};
use crate::output;
use anyhow::{Context, Result, bail};
use clap::Args;
use ingot::runtime::sample::Grammar;
use ingot::{Bytes, Ceilings, Measured, Model, RandomShape, Sampling, Workload};
use peer::{Against, Peer};
use report::Report;
use row::{Row, Spread, Theirs};
use std::path::PathBuf;

/// Flags of `ingot bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: PathArgs,
    /// A model of a published shape with random weights: smollm2-135m, llama-1b, llama-8b, llama-70b,
    /// qwen3-30b-a3b, in 4 bits or in the format after a colon, e.g. llama-8b:affine8g64_f16 or llama-8b:mxfp4
    #[arg(long, value_name = "SHAPE", value_parser = args::shape, conflicts_with = "model")]
    random: Option<RandomShape>,
    /// Tokens of the prompts to prefill; 0 for none
    #[arg(short = 'p', long, value_name = "N,...", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<u32>,
    /// Tokens to decode; 0 for none
    #[arg(short = 'g', long, value_name = "N,...", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<u32>,
    /// Sequences that are decoded together
    #[arg(short = 'b', long, value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=args::MAX_BATCH))]
    batch: Vec<u32>,
    /// Tokens in the cache before decoding starts
    #[arg(short = 'd', long, value_name = "N,...", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<u32>,
    /// Repeats of each measurement, after one to warm up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Run another engine in turn with this one and print ratios: llama-bench=PROGRAM or mlx[=PYTHON]
    #[arg(long, value_name = "PEER")]
    against: Vec<Against>,
    /// What the other engine loads: a GGUF file for llama-bench, a folder for mlx [default for mlx: MODEL]
    #[arg(long, value_name = "PATH", requires = "against")]
    against_model: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    form: FormArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values
    #[arg(long)]
    csv: bool,
    /// Also write a page with tables and plots, complete in itself
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// One measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Test {
    /// A prompt, up to its first token.
    Prefill { n_tokens: u32 },
    /// Tokens after the first, of `batch` sequences that have `depth` tokens in the cache.
    Decode { n_tokens: u32, depth: u32, batch: u32 },
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    args.html.as_deref().map_or(Ok(()), output::check_place)?;
    let tests = tests(args);
    let form = args.form.read()?;
    if form.is_some() && !args.against.is_empty() {
        bail!("--against: other engines are not asked for answers of a form; leave out one of the two");
    }
    let mut device = args.device.clone();
    let workloads = || tests.iter().map(|test| test.workload());
    let most = workloads().map(|workload| workload.n_sequences).max().unwrap_or(1);
    device.make_room(most, workloads().map(|workload| workload.context()).max().unwrap_or(1));
    let folder = match &args.random {
        Some(_) => None,
        None => Some(args.model.folder()?),
    };
    let peers: Vec<Peer> = args
        .against
        .iter()
        .map(|against| Peer::new(against, args.against_model.as_deref(), folder.as_deref(), &device))
        .collect::<Result<_>>()?;
    let limits = device.limits()?;
    let (mut model, name) = match (&args.random, &folder) {
        (Some(shape), _) => (device.load_random(shape)?, format!("{} {} (random weights)", shape.name, shape.format)),
        (None, Some(folder)) => (device.load(folder)?, folder.display().to_string()),
        (None, None) => unreachable!("a folder unless weights are random"),
    };
    let ceilings = limits.of(&model)?;
    let mut report = Report::new(&model, name, ceilings);
    let printed = !args.json && !args.csv;
    if printed {
        output::println(&report.heading())?;
    }
    let form = match (&form, &args.random) {
        (Some(form), Some(_)) => Some(model.made_up_form(form)?),
        (Some(form), None) => Some(model.form(form)?),
        (None, _) => None,
    };
    let choice = Choice { sampling: args.sampling.sampling(), form };
    for test in tests {
        let row = measure(&mut model, test, &choice, args.repeats, &ceilings, &peers)?;
        if printed {
            output::println(&report::markdown(&row))?;
        }
        report.rows.push(row);
    }
    report.peak_bytes = model.memory().peak;
    if let Some(path) = &args.html {
        std::fs::write(path, html::page(&report)).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    match (args.json, args.csv) {
        (true, _) => output::println(&report.object().to_string()),
        (_, true) => output::print(&report.csv()),
        _ => output::println(&format!("\npeak memory {}", Bytes(report.peak_bytes))),
    }
}

/// How tokens are chosen.
struct Choice {
    sampling: Sampling,
    form: Option<Box<dyn Grammar>>,
}

impl Choice {
    fn measure(&self, model: &mut Model, workload: Workload) -> Result<Measured> {
        let Some(form) = &self.form else { return Ok(model.measure(workload, &self.sampling)?) };
        let measured = model.measure_form(workload, &self.sampling, form.as_ref())?;
        let (n_decoded, n_wanted) = (measured.n_decoded, workload.n_sequences as usize * workload.n_gen as usize);
        if n_decoded < n_wanted {
            bail!(
                "an answer of the form ended early ({n_decoded} of {n_wanted} tokens after the first); take a form whose answers \
                 go on, or a smaller -g"
            );
        }
        Ok(measured)
    }
}

fn tests(args: &BenchArgs) -> Vec<Test> {
    let some = |list: &[u32]| list.iter().copied().filter(|n| *n > 0).collect::<Vec<_>>();
    let mut tests: Vec<Test> = some(&args.n_prompt).into_iter().map(|n_tokens| Test::Prefill { n_tokens }).collect();
    for &depth in &args.n_depth {
        for &batch in &args.batch {
            tests.extend(some(&args.n_gen).into_iter().map(|n_tokens| Test::Decode { n_tokens, depth, batch }));
        }
    }
    tests
}

impl Test {
    fn workload(self) -> Workload {
        match self {
            Self::Prefill { n_tokens } => Workload { n_sequences: 1, n_prompt: n_tokens, n_gen: 0 },
            // A decode needs at least one token to go on from.
            Self::Decode { n_tokens, depth, batch } => {
                Workload { n_sequences: batch, n_prompt: depth.max(1), n_gen: n_tokens }
            }
        }
    }

    /// Tokens a second of all sequences.
    fn speed(self, measured: &Measured) -> f64 {
        let (n, time) = match self {
            Self::Prefill { n_tokens } => (n_tokens as usize, measured.first_token),
            Self::Decode { .. } => (measured.n_decoded, measured.decode),
        };
        n as f64 / time.as_secs_f64().max(1e-9)
    }
}

fn measure(
    model: &mut Model,
    test: Test,
    choice: &Choice,
    repeats: u32,
    ceilings: &Ceilings,
    peers: &[Peer],
) -> Result<Row> {
    let workload = test.workload();
    choice.measure(model, workload)?;
    let mut runs = Vec::with_capacity(repeats as usize);
    let mut theirs: Vec<Vec<f64>> = vec![Vec::new(); peers.len()];
    // In turn, so that a machine that slows down meanwhile favours none.
    for _ in 0..repeats {
        runs.push(choice.measure(model, workload)?);
        for (peer, speeds) in peers.iter().zip(&mut theirs) {
            speeds.extend(peer.speed(test)?);
        }
    }
    let speeds: Vec<f64> = runs.iter().map(|measured| test.speed(measured)).collect();
    let mut row = Row::new(test, &runs, Spread::of(&speeds), model, ceilings)?;
    row.peers = peers
        .iter()
        .zip(&theirs)
        .map(|(peer, speeds)| Theirs {
            name: peer.name().to_owned(),
            speed: (!speeds.is_empty()).then(|| Spread::of(speeds)),
        })
        .collect();
    Ok(row)
}
