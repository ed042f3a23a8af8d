//! What the repeats of a measurement gave, and what the device was asked to do for it.

use super::Test;
use anyhow::Result;
use ingot::{Ceilings, Cost, Measured, Model, StepShape};
use std::time::Duration;

/// A mean and its sample standard deviation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Spread {
    pub mean: f64,
    pub sd: f64,
}

/// Another engine at the same measurement.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Theirs {
    pub name: String,
    /// Tokens a second; `None` if it does not measure this.
    pub speed: Option<Spread>,
}

/// One measurement.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Row {
    pub test: Test,
    /// Tokens a second of all sequences.
    pub speed: Spread,
    /// From the requests to the moment when every sequence has its first token, in seconds.
    pub first_token_s: Spread,
    /// Half, nine tenths and 99 hundredths of the times between two tokens of a sequence are below, in seconds (decode).
    pub between_s: Option<[f64; 3]>,
    /// Bytes and operations a token.
    pub per_token: PerToken,
    /// Bytes of weights, keys and values a second, as a share of the read stream.
    pub read_share: f64,
    /// Operations a second, in 10^9.
    pub gflop_s: f64,
    /// Kernel launches of a step.
    pub n_dispatches: usize,
    /// Steps submitted a token (decode).
    pub submits: Option<f64>,
    /// What submitting a step takes on this thread, in seconds: on a GPU encoding, on the CPU the work itself (decode).
    pub submit_s: Option<f64>,
    /// Share of the time in which the device had nothing to do, where it can tell (decode).
    pub idle: Option<f64>,
    pub peers: Vec<Theirs>,
}

/// What a token costs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct PerToken {
    /// Bytes of weights, keys and values read.
    pub bytes: f64,
    /// Floating-point operations.
    pub flops: f64,
}

impl Spread {
    /// Of at least one sample.
    pub(super) fn of(samples: &[f64]) -> Self {
        let n = samples.len().max(1) as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
        Self { mean, sd: if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }
}

impl Theirs {
    /// How many times as fast this engine is.
    pub(super) fn ratio(&self, ours: &Spread) -> Option<f64> {
        self.speed.map(|theirs| ours.mean / theirs.mean.max(1e-9))
    }
}

impl Row {
    pub(super) fn new(
        test: Test,
        runs: &[Measured],
        speed: Spread,
        model: &Model,
        ceilings: &Ceilings,
    ) -> Result<Self> {
        let is_decode = matches!(test, Test::Decode { .. });
        let work = Work::of(test, model)?;
        let n_tokens = work.n_tokens.max(1) as f64;
        let bytes = (work.cost.weight_bytes + work.cost.kv_bytes) as f64 / n_tokens;
        let flops = work.cost.flops as f64 / n_tokens;
        let sum = |of: &dyn Fn(&Measured) -> Duration| runs.iter().map(|run| of(run).as_secs_f64()).sum::<f64>();
        let decode_s = sum(&|run| run.decode).max(1e-9);
        let n_steps = runs.iter().map(|run| run.n_steps).sum::<u64>().max(1) as f64;
        let n_decoded = runs.iter().map(|run| run.n_decoded).sum::<usize>().max(1) as f64;
        let device_s: Option<f64> = runs.iter().map(|run| run.device.map(|time| time.as_secs_f64())).sum();
        let firsts: Vec<f64> = runs.iter().map(|run| run.first_token.as_secs_f64()).collect();
        Ok(Self {
            test,
            speed,
            first_token_s: Spread::of(&firsts),
            between_s: is_decode.then(|| {
                let mut gaps: Vec<f64> = runs.iter().flat_map(|run| &run.gaps).map(Duration::as_secs_f64).collect();
                gaps.sort_by(f64::total_cmp);
                [0.5, 0.9, 0.99].map(|share| quantile(&gaps, share))
            }),
            per_token: PerToken { bytes, flops },
            read_share: bytes * speed.mean / 1e9 / ceilings.read_gb_s.max(1e-9),
            gflop_s: flops * speed.mean / 1e9,
            n_dispatches: work.n_dispatches,
            submits: is_decode.then_some(n_steps / n_decoded),
            submit_s: is_decode.then(|| sum(&|run| run.submit) / n_steps),
            idle: device_s.filter(|_| is_decode).map(|device_s| (1.0 - device_s / decode_s).max(0.0)),
            peers: Vec::new(),
        })
    }
}

/// What a measurement asks of the device.
struct Work {
    cost: Cost,
    n_tokens: u64,
    n_dispatches: usize,
}

impl Work {
    /// Of a decode the step in the middle; of a prefill all its chunks.
    fn of(test: Test, model: &Model) -> Result<Self> {
        let facts = |shape| model.step_facts(shape);
        match test {
            Test::Decode { n_tokens, depth, batch } => {
                let depth = depth.max(1) + n_tokens / 2;
                let facts = facts(StepShape { n_sequences: batch, n_tokens: 1, depth })?;
                Ok(Self { cost: facts.cost, n_tokens: batch.into(), n_dispatches: facts.n_dispatches })
            }
            Test::Prefill { n_tokens } => {
                let chunk = model.facts().max_step_tokens.max(1);
                let mut work = Self { cost: Cost::default(), n_tokens: n_tokens.into(), n_dispatches: 0 };
                for depth in (0..n_tokens).step_by(chunk as usize) {
                    let facts = facts(StepShape { n_sequences: 1, n_tokens: chunk.min(n_tokens - depth), depth })?;
                    work.cost = work.cost + facts.cost;
                    work.n_dispatches = work.n_dispatches.max(facts.n_dispatches);
                }
                Ok(work)
            }
        }
    }
}

/// The number of an ascending list that a share of it does not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let ix = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(ix.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_sample_deviation() {
        let spread = Spread::of(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(spread.mean, 2.5);
        assert!((spread.sd - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(&[7.0]).sd, 0.0);
    }

    #[test]
    fn quantiles_are_numbers_of_the_list() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.9, 0.99].map(|share| quantile(&hundred, share)), [50.0, 90.0, 99.0]);
        assert_eq!([0.5, 0.9, 0.99].map(|share| quantile(&[3.0], share)), [3.0; 3]);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_ratio_above_one_is_faster() {
        let theirs = Theirs { name: "x".into(), speed: Some(Spread { mean: 50.0, sd: 1.0 }) };
        assert_eq!(theirs.ratio(&Spread { mean: 100.0, sd: 1.0 }), Some(2.0));
        assert_eq!(Theirs { speed: None, ..theirs }.ratio(&Spread { mean: 1.0, sd: 0.0 }), None);
    }
}
