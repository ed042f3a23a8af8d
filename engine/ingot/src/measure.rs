//! Times a workload in the serving loop: any number of sequences that are read and decoded together.

use crate::steps::made_up_id;
use crate::{Error, Model};
use ingot_runtime::sample::{Grammar, Sampling};
use ingot_runtime::tick;
use ingot_runtime::world::{Event, Request, RequestId, World};
use std::time::{Duration, Instant};

/// Sequences that are alike, with made-up prompts and answers that never end early.
///
/// ```
/// use ingot::{DeviceChoice, LoadOptions, Model, Sampling, Workload};
///
/// let workload = Workload { n_sequences: 2, n_prompt: 8, n_gen: 4 };
/// let context = Some(workload.context());
/// let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 2, context, ..LoadOptions::default() };
/// let mut model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
/// assert!(model.measure(workload, &Sampling::default())?.n_decoded >= 2 * 4);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Workload {
    /// Sequences at one time.
    pub n_sequences: u32,
    /// Tokens of each prompt, at least 1.
    pub n_prompt: u32,
    /// Tokens of each answer after its first; 0 only reads the prompts.
    pub n_gen: u32,
}

impl Workload {
    /// Tokens that a sequence needs room for: prompt and answer, and where there are several what one is ahead of others by. It
    /// has its first token while they still read their prompts, and takes one a step.
    ///
    /// ```
    /// use ingot::Workload;
    ///
    /// assert_eq!(Workload { n_sequences: 1, n_prompt: 1000, n_gen: 10 }.context(), 1011);
    /// assert!(Workload { n_sequences: 4, n_prompt: 1000, n_gen: 10 }.context() > 1011);
    /// ```
    pub fn context(&self) -> u32 {
        let ahead = if self.n_sequences > 1 {
            u64::from(self.n_sequences) * u64::from(self.n_prompt).div_ceil(LEAST_CHUNK)
        } else {
            0
        };
        let wanted = u64::from(self.n_prompt) + u64::from(self.n_gen) + 1 + ahead;
        u32::try_from(wanted).unwrap_or(u32::MAX)
    }
}

/// Prompt tokens a step at least, where there are that many.
const LEAST_CHUNK: u64 = 256;

/// What a workload took.
///
/// ```
/// use ingot::{Measured, Sampling, Workload};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let workload = Workload { n_sequences: 1, n_prompt: 16, n_gen: 4 };
/// let Measured { first_token, decode, n_decoded, gaps, .. } = model.measure(workload, &Sampling::default())?;
/// println!("{first_token:?} to the first token, then {:.0} tokens/s", n_decoded as f64 / decode.as_secs_f64());
/// assert_eq!((n_decoded, gaps.len()), (4, 4));
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// From the requests to the moment when every sequence has its first token.
    pub first_token: Duration,
    /// From then to the last token that counts.
    pub decode: Duration,
    /// Tokens of all sequences in that time.
    pub n_decoded: usize,
    /// Between one token of a sequence and its next, in that time.
    pub gaps: Vec<Duration>,
    /// Time that the device worked then, where it can tell.
    pub device: Option<Duration>,
    /// Time that this thread took to submit steps then: on a GPU encoding, on the CPU the work itself.
    pub submit: Duration,
    /// Steps that were finished then; each is one submission.
    pub n_steps: u64,
}

/// A sequence under way.
struct Sequence {
    request: RequestId,
    last_at: Option<Instant>,
    /// Tokens after the moment when every sequence had one.
    n_counted: u32,
}

impl Model {
    /// Runs a workload, whose tokens are chosen as `sampling` says, and times it.
    ///
    /// ```
    /// use ingot::{Sampling, Workload};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    /// let measured = model.measure(Workload { n_sequences: 1, n_prompt: 16, n_gen: 4 }, &sampling)?;
    /// assert!(measured.decode > measured.gaps[0]);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the runtime, e.g. a prompt that the context does not hold.
    pub fn measure(&mut self, workload: Workload, sampling: &Sampling) -> Result<Measured, Error> {
        self.measure_from(workload, sampling, None)
    }

    /// As [`Model::measure`], with answers that keep a form of [`Model::form`] or [`Model::made_up_form`]; one that ends before the workload does is measured
    /// up to its end.
    ///
    /// ```
    /// use ingot::{Grammar, Sampling, Workload};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let form = model.form(&Grammar::Regex("[a-z]{8}".into()))?;
    /// let workload = Workload { n_sequences: 1, n_prompt: 16, n_gen: 100 };
    /// assert!(model.measure_form(workload, &Sampling::default(), form.as_ref())?.n_decoded <= 8);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::measure`].
    pub fn measure_form(
        &mut self,
        workload: Workload,
        sampling: &Sampling,
        form: &dyn Grammar,
    ) -> Result<Measured, Error> {
        self.measure_from(workload, sampling, Some(form))
    }

    fn measure_from(
        &mut self,
        workload: Workload,
        sampling: &Sampling,
        form: Option<&dyn Grammar>,
    ) -> Result<Measured, Error> {
        let measured = self.timed(workload, sampling, form);
        if measured.is_err() {
            self.abandon();
        }
        measured
    }

    fn timed(
        &mut self,
        workload: Workload,
        sampling: &Sampling,
        form: Option<&dyn Grammar>,
    ) -> Result<Measured, Error> {
        let Workload { n_sequences, n_prompt, n_gen } = workload;
        let n_vocab = self.world.plan.n_vocab;
        let n_prompt = n_prompt.max(1);
        let started = Instant::now();
        let mut sequences = Vec::with_capacity(n_sequences as usize);
        for row in 0..n_sequences {
            let prompt = (0..n_prompt).map(|ix| made_up_id(row * n_prompt + ix, n_vocab)).collect();
            let max_tokens = workload.context().saturating_sub(n_prompt).max(1);
            let request = Request {
                prompt,
                sampling: sampling.clone(),
                grammar: form.map(|form| form.fork()),
                stop_ids: Vec::new(),
                max_tokens,
                prompt_logits: false,
                cache_prompt: false,
            };
            let request = self.world.submit(request)?;
            sequences.push(Sequence { request, last_at: None, n_counted: 0 });
        }
        let mut counting: Option<Counting> = None;
        let mut first_token = Duration::ZERO;
        let mut measured = None;
        while !self.world.is_idle() {
            tick::run(&mut self.world)?;
            let now = Instant::now();
            let mut events = std::mem::take(&mut self.world.events);
            for event in events.drain(..) {
                let Event::Token { request, .. } = event else { continue };
                let Some(sequence) = sequences.iter_mut().find(|sequence| sequence.request == request) else {
                    continue;
                };
                let before = sequence.last_at.replace(now);
                if let (Some(counting), Some(before)) = (&mut counting, before) {
                    sequence.n_counted += 1;
                    counting.gaps.push(now - before);
                }
            }
            // The vector goes back, so that its memory is used again.
            self.world.events = events;
            if counting.is_none() && sequences.iter().all(|sequence| sequence.last_at.is_some()) {
                first_token = now - started;
                counting = Some(Counting::begin(now, &self.world, n_sequences * n_gen));
            }
            let is_done = sequences.iter().all(|sequence| sequence.n_counted >= n_gen);
            if let (true, Some(counting), None) = (is_done, &mut counting, &measured) {
                measured = Some(counting.end(now, first_token, &self.world));
                sequences.iter().for_each(|sequence| self.world.cancel(sequence.request));
            }
        }
        let last = sequences.iter().filter_map(|sequence| sequence.last_at).max().unwrap_or(started);
        let mut counting = counting.unwrap_or_else(|| Counting::begin(last, &self.world, 0));
        Ok(measured.unwrap_or_else(|| counting.end(last, first_token, &self.world)))
    }
}

/// The clocks when counting began.
struct Counting {
    started: Instant,
    device_ns: u64,
    submit_ns: u64,
    n_steps: u64,
    gaps: Vec<Duration>,
}

impl Counting {
    fn begin(now: Instant, world: &World, n_gaps: u32) -> Self {
        Self {
            started: now,
            device_ns: world.device_ns,
            submit_ns: world.submit_ns,
            n_steps: finished(world),
            gaps: Vec::with_capacity(n_gaps as usize),
        }
    }

    fn end(&mut self, now: Instant, first_token: Duration, world: &World) -> Measured {
        let gaps = std::mem::take(&mut self.gaps);
        let device_ns = world.device_ns - self.device_ns;
        Measured {
            first_token,
            decode: now - self.started,
            n_decoded: gaps.len(),
            gaps,
            device: (device_ns > 0).then(|| Duration::from_nanos(device_ns)),
            submit: Duration::from_nanos(world.submit_ns - self.submit_ns),
            n_steps: finished(world) - self.n_steps,
        }
    }
}

fn finished(world: &World) -> u64 {
    world.n_steps - world.in_flight.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_that_are_ahead_have_room() {
        assert_eq!(Workload { n_sequences: 1, n_prompt: 1000, n_gen: 10 }.context(), 1011);
        assert_eq!(Workload { n_sequences: 4, n_prompt: 1000, n_gen: 10 }.context(), 1011 + 16);
        let huge = Workload { n_sequences: u32::MAX, n_prompt: u32::MAX, n_gen: u32::MAX };
        assert_eq!(huge.context(), u32::MAX);
    }
}
