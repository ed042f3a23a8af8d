//! `ingot bench`: prefill and decode speed, with what the plan costs a token.
//!
//! Prompts are made-up token ids; answers are greedy and never end early. A prefill of P tokens is timed from the
//! request to its first token, a decode of G tokens from the first token to the last of G + 1.

use crate::args::{self, DeviceArgs};
use crate::{output, shipped};
use anyhow::Result;
use clap::Args;
use ingot::{Bytes, GenerateOptions, Model, PlanFacts, RandomShape, Stats};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Flags of `ingot bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Folder of a checkpoint, or the name of a shipped model [default: ingot-tales-14m]
    model: Option<PathBuf>,
    /// A model of a published shape with random 4-bit weights: smollm2-135m, llama-1b, llama-8b, llama-70b
    #[arg(long, value_name = "SHAPE", value_parser = args::shape, conflicts_with = "model")]
    random: Option<RandomShape>,
    /// Tokens of the prompts to prefill; 0 for none
    #[arg(short = 'p', long, value_name = "N,...", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<u32>,
    /// Tokens to decode; 0 for none
    #[arg(short = 'g', long, value_name = "N,...", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<u32>,
    /// Tokens in the cache before decoding starts
    #[arg(short = 'd', long, value_name = "N,...", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<u32>,
    /// Repeats of each measurement, after one to warm up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One measurement.
#[derive(Clone, Copy)]
enum Test {
    Prefill { n_tokens: u32 },
    Decode { n_tokens: u32, depth: u32 },
}

/// What the repeats of a measurement gave.
struct Row {
    name: String,
    /// Tokens a second.
    speed: Spread,
    /// From the request to the first token, in seconds.
    first_token_s: Spread,
    /// Weight bytes read a second, in GB (decode).
    weights_gb_s: Option<f64>,
    /// Share of the decoding time that the device worked, where it can tell.
    device_busy: Option<f64>,
    /// What submitting a step takes on this thread, in seconds: on a GPU encoding, on the CPU the work itself.
    submit_s: f64,
}

/// A mean and its sample standard deviation.
struct Spread {
    mean: f64,
    sd: f64,
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let tests = tests(args);
    let mut device = args.device.clone();
    // The longest test decides how long the context must be; a shorter one needs no more pages than usual.
    let needed = tests.iter().map(Test::context).max().unwrap_or(1);
    if device.context.is_none() && needed > DEFAULT_CONTEXT {
        device.context = Some(needed);
    }
    let (mut model, name) = match &args.random {
        Some(shape) => (device.load_random(shape)?, format!("{} (random weights)", shape.name)),
        None => {
            let folder = shipped::folder(args.model.as_deref())?;
            (device.load(&folder)?, folder.display().to_string())
        }
    };
    let facts = model.facts();
    if !args.json {
        output::println(&heading(&model, &name, &facts))?;
    }
    let mut rows = Vec::new();
    for test in tests {
        let row = measure(&mut model, test, args.repeats, &facts)?;
        if !args.json {
            output::println(&row.markdown())?;
        }
        rows.push(row.object());
    }
    if args.json {
        return output::println(&report(&model, &name, &facts, rows).to_string());
    }
    output::println(&format!("\npeak memory {}", Bytes(model.memory().peak)))
}

const DEFAULT_CONTEXT: u32 = 8192;

fn tests(args: &BenchArgs) -> Vec<Test> {
    let prefills = args.n_prompt.iter().filter(|n| **n > 0).map(|n| Test::Prefill { n_tokens: *n });
    let decodes = args
        .n_depth
        .iter()
        .flat_map(|depth| args.n_gen.iter().filter(|n| **n > 0).map(|n| Test::Decode { n_tokens: *n, depth: *depth }));
    prefills.chain(decodes).collect()
}

impl Test {
    fn name(self) -> String {
        match self {
            Self::Prefill { n_tokens } => format!("prefill {n_tokens}"),
            Self::Decode { n_tokens, depth: 0 } => format!("decode {n_tokens}"),
            Self::Decode { n_tokens, depth } => format!("decode {n_tokens} at {depth}"),
        }
    }
    fn n_prompt(self) -> u32 {
        match self {
            Self::Prefill { n_tokens } => n_tokens,
            // A decode needs at least one token to go on from.
            Self::Decode { depth, .. } => depth.max(1),
        }
    }
    fn max_tokens(self) -> u32 {
        match self {
            Self::Prefill { .. } => 1,
            // The first token comes from the prefill and is not counted.
            Self::Decode { n_tokens, .. } => n_tokens.saturating_add(1),
        }
    }
    fn context(&self) -> u32 {
        self.n_prompt().saturating_add(self.max_tokens())
    }
    fn speed(self, stats: &Stats) -> f64 {
        match self {
            Self::Prefill { .. } => stats.prompt_tps(),
            Self::Decode { .. } => stats.generation_tps(),
        }
    }
}

fn measure(model: &mut Model, test: Test, repeats: u32, facts: &PlanFacts) -> Result<Row> {
    let prompt = prompt(test.n_prompt(), facts.n_vocab);
    let options = GenerateOptions { max_tokens: test.max_tokens(), ignore_eos: true, ..GenerateOptions::default() };
    let mut once = || -> Result<Stats> { Ok(model.generate(&prompt, &options, |_| true)?.stats) };
    once()?;
    let runs = (0..repeats).map(|_| once()).collect::<Result<Vec<_>>>()?;
    let speed = Spread::of(runs.iter().map(|stats| test.speed(stats)));
    let is_decode = matches!(test, Test::Decode { .. });
    let decode_s: f64 = runs.iter().map(|stats| stats.generation.as_secs_f64()).sum();
    let device_s: Option<f64> = runs.iter().map(|stats| stats.device.map(|time| time.as_secs_f64())).sum();
    Ok(Row {
        name: test.name(),
        first_token_s: Spread::of(runs.iter().map(|stats| stats.first_token.as_secs_f64())),
        weights_gb_s: is_decode.then_some(facts.weight_bytes as f64 * speed.mean / 1e9),
        submit_s: Spread::of(runs.iter().map(|stats| stats.submit_per_step.as_secs_f64())).mean,
        device_busy: device_s.filter(|_| is_decode).map(|device_s| device_s / decode_s.max(1e-9)),
        speed,
    })
}

/// Ids spread over the vocabulary, the same each time.
fn prompt(n_tokens: u32, n_vocab: u32) -> Vec<u32> {
    let id = |ix: u32| (u64::from(ix) * 7919 + 1) % u64::from(n_vocab.max(1));
    (0..n_tokens).map(|ix| id(ix) as u32).collect()
}

impl Spread {
    fn of(samples: impl Iterator<Item = f64> + Clone) -> Self {
        let n = samples.clone().count() as f64;
        let mean = samples.clone().sum::<f64>() / n;
        let squares: f64 = samples.map(|x| (x - mean) * (x - mean)).sum();
        Self { mean, sd: if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }
}

fn heading(model: &Model, name: &str, facts: &PlanFacts) -> String {
    format!(
        "{name} on {}\na token: {} kernel launches, {} of weights ({} kernels in the plan)\n\n\
         | test | tokens/s | first token, ms | weights, GB/s | device busy | submit, µs a step |\n|---|---|---|---|---|---|",
        model.device(),
        facts.n_dispatches,
        Bytes(facts.weight_bytes),
        facts.n_kernels,
    )
}

impl Row {
    fn markdown(&self) -> String {
        let Self { name, speed, first_token_s: first, .. } = self;
        let weights = self.weights_gb_s.map_or("-".into(), |rate| format!("{rate:.2}"));
        let busy = self.device_busy.map_or("-".into(), |share| format!("{:.0} %", share * 100.0));
        let first = format!("{:.1} ± {:.1}", first.mean * 1e3, first.sd * 1e3);
        format!(
            "| {name} | {:.1} ± {:.1} | {first} | {weights} | {busy} | {:.0} |",
            speed.mean,
            speed.sd,
            self.submit_s * 1e6
        )
    }

    fn object(&self) -> Value {
        json!({
            "test": self.name,
            "tokens_per_s": self.speed.mean,
            "tokens_per_s_sd": self.speed.sd,
            "first_token_s": self.first_token_s.mean,
            "first_token_s_sd": self.first_token_s.sd,
            "weights_gb_per_s": self.weights_gb_s,
            "device_busy": self.device_busy,
            "submit_s_per_step": self.submit_s,
        })
    }
}

fn report(model: &Model, name: &str, facts: &PlanFacts, rows: Vec<Value>) -> Value {
    json!({
        "model": name,
        "device": model.device(),
        "dispatches_per_token": facts.n_dispatches,
        "weight_bytes_per_token": facts.weight_bytes,
        "kernels": facts.n_kernels,
        "context": facts.max_context,
        "peak_memory_bytes": model.memory().peak,
        "results": rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_sample_deviation() {
        let spread = Spread::of([1.0, 2.0, 3.0, 4.0].into_iter());
        assert_eq!(spread.mean, 2.5);
        assert!((spread.sd - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of([7.0].into_iter()).sd, 0.0);
    }

    #[test]
    fn a_decode_needs_a_prompt_and_one_token_more() {
        let test = Test::Decode { n_tokens: 128, depth: 0 };
        assert_eq!((test.n_prompt(), test.max_tokens(), test.context()), (1, 129, 130));
    }

    #[test]
    fn prompts_stay_in_the_vocabulary() {
        assert!(prompt(1000, 97).iter().all(|id| *id < 97));
    }
}
