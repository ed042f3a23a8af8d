//! Generating text.

use crate::{Error, Model};
use ingot_models::text::detokenizer::Detokenizer;
use ingot_models::text::grammar::Grammar;
use ingot_models::text::stop::StopStrings;
use ingot_models::text::tokenizer::Tokenizer;
use ingot_runtime::backend::MemoryUse;
use ingot_runtime::sample::Sampling;
use ingot_runtime::tick;
use ingot_runtime::world::{Event, FinishReason, Request};
use std::time::{Duration, Instant};

/// How an answer is generated. Defaults are mlx-lm's.
#[derive(Clone, PartialEq, Debug)]
pub struct GenerateOptions {
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// How tokens are chosen. Line ends and end tokens are exempt from XTC besides the ids that it names.
    pub sampling: Sampling,
    /// The form that the answer keeps. Its end ends the answer; before, the model's end tokens count only where the form may
    /// end. An answer that is ended by `max_tokens` or a stop string need not be whole.
    pub grammar: Option<Grammar>,
    /// Whether the model's end tokens do not end the answer.
    pub ignore_eos: bool,
    /// Ids that end the answer besides the model's end tokens.
    pub stop_ids: Vec<u32>,
    /// Strings that end the answer and are no part of it. They are looked for in text after the first
    /// `sampling.min_tokens` tokens.
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        let (stop_ids, stop) = (Vec::new(), Vec::new());
        Self { max_tokens: 100, sampling: Sampling::default(), grammar: None, ignore_eos: false, stop_ids, stop }
    }
}

/// Natural logarithms of probabilities, after penalties and before filters and temperature.
#[derive(Clone, PartialEq, Debug)]
pub struct Logprobs {
    /// The chosen token's.
    pub chosen: f32,
    /// The best ids and theirs, in falling order, as many as were asked for.
    pub best: Vec<(u32, f32)>,
}

/// A token of the answer, with the text that it completes.
#[derive(Clone, PartialEq, Debug)]
pub struct Piece {
    /// The id; `None` for text that was held back until the end.
    pub id: Option<u32>,
    /// Text, perhaps empty: half characters, and what may become a stop string, are held back.
    pub text: String,
    /// The token's log-probabilities, if they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// Counts and times of one answer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Stats {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens of the answer.
    pub n_generated: usize,
    /// From the request to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub generation: Duration,
    /// Time that the device worked on the answer's steps after the first token, where it can tell.
    pub device: Option<Duration>,
    /// Time that this thread took to submit one step, on average: on a GPU encoding, on the CPU the work itself.
    pub submit_per_step: Duration,
    /// Device memory.
    pub memory: MemoryUse,
}

impl Stats {
    /// Prompt tokens a second.
    pub fn prompt_tps(&self) -> f64 {
        self.n_prompt as f64 / self.first_token.as_secs_f64().max(1e-9)
    }
    /// Tokens a second after the first.
    pub fn generation_tps(&self) -> f64 {
        self.n_generated.saturating_sub(1) as f64 / self.generation.as_secs_f64().max(1e-9)
    }
}

/// A finished answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// The text, without special tokens.
    pub text: String,
    /// Every id, an end token included.
    pub ids: Vec<u32>,
    /// Each id's log-probabilities, if they were asked for; else empty.
    pub logprobs: Vec<Logprobs>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Counts and times.
    pub stats: Stats,
}

impl Model {
    /// Generates an answer to a prompt. `on_piece` sees every token as it comes and ends the answer by returning false.
    /// Without a tokenizer the text stays empty.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_piece: impl FnMut(&Piece) -> bool,
    ) -> Result<Answer, Error> {
        let answer = self.answer(prompt, options, on_piece);
        if answer.is_err() {
            self.abandon();
        }
        answer
    }

    fn answer(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_piece: impl FnMut(&Piece) -> bool,
    ) -> Result<Answer, Error> {
        let mut stop_ids = options.stop_ids.clone();
        if !options.ignore_eos {
            stop_ids.extend_from_slice(self.eos_ids());
        }
        let started = Instant::now();
        let request = Request {
            prompt: prompt.to_vec(),
            sampling: self.exempting(&options.sampling, &stop_ids)?,
            grammar: options.grammar.as_ref().map(|grammar| self.form(grammar)).transpose()?,
            stop_ids: stop_ids.clone(),
            max_tokens: options.max_tokens,
            prompt_logits: false,
        };
        let request = self.world.submit(request)?;
        let mut writer = Writer::new(&options.stop, options.sampling.min_tokens as usize);
        let (mut text, mut ids, mut finish) = (String::new(), Vec::new(), FinishReason::Length);
        let (mut all_logprobs, mut logprobs) = (Vec::new(), None);
        let (mut first_at, mut last_at) = (None, started);
        let mut device_ns_at_first = 0;
        let (submit_ns_before, n_steps_before) = (self.world.submit_ns, self.world.n_steps);
        let mut shown = true;
        while !self.world.is_idle() {
            tick::run(&mut self.world)?;
            let mut events = std::mem::take(&mut self.world.events);
            for event in events.drain(..) {
                match event {
                    // Tokens of steps that were in flight when a stop string came.
                    Event::Token { .. } | Event::Logprobs { .. } if writer.stopped => {}
                    Event::Logprobs { request: of, logprob, best } if of == request => {
                        logprobs = Some(Logprobs { chosen: logprob, best });
                    }
                    Event::Token { request: of, id } if of == request => {
                        last_at = Instant::now();
                        if first_at.is_none() {
                            device_ns_at_first = self.world.device_ns;
                            first_at = Some(last_at);
                        }
                        ids.push(id);
                        all_logprobs.extend(logprobs.clone());
                        // An end token adds no text.
                        let piece = match self.tokenizer() {
                            Ok(tokenizer) if !stop_ids.contains(&id) => writer.push(tokenizer, id)?,
                            _ => String::new(),
                        };
                        text.push_str(&piece);
                        let piece = Piece { id: Some(id), text: piece, logprobs: logprobs.take() };
                        shown = shown && on_piece(&piece);
                        if !shown || writer.stopped {
                            self.world.cancel(request);
                        }
                    }
                    Event::Unfit { request: of, why } if of == request => {
                        return Err(ingot_models::Error::Grammar(why).into());
                    }
                    Event::Finished { request: of, reason } if of == request => finish = reason,
                    _ => {}
                }
            }
            // The vector goes back, so that its memory is used again.
            if self.world.events.is_empty() {
                self.world.events = events;
            }
        }
        if !writer.stopped
            && let Ok(tokenizer) = self.tokenizer()
        {
            let rest = writer.finish(tokenizer)?;
            if !rest.is_empty() {
                text.push_str(&rest);
                if shown {
                    on_piece(&Piece { id: None, text: rest, logprobs: None });
                }
            }
        }
        if writer.stopped {
            finish = FinishReason::Stop;
        }
        let first_at = first_at.unwrap_or(last_at);
        let device_ns = self.world.device_ns - device_ns_at_first;
        let stats = Stats {
            n_prompt: prompt.len(),
            n_generated: ids.len(),
            first_token: first_at - started,
            generation: last_at - first_at,
            device: (device_ns > 0).then(|| Duration::from_nanos(device_ns)),
            submit_per_step: Duration::from_nanos(
                (self.world.submit_ns - submit_ns_before) / (self.world.n_steps - n_steps_before).max(1),
            ),
            memory: self.memory(),
        };
        Ok(Answer { text, ids, logprobs: all_logprobs, finish, stats })
    }

    /// The sampling with line ends and end tokens exempt from XTC, as mlx-lm has it.
    fn exempting(&self, sampling: &Sampling, stop_ids: &[u32]) -> Result<Sampling, Error> {
        let mut sampling = sampling.clone();
        if sampling.xtc_probability > 0.0 {
            sampling.xtc_exempt.extend_from_slice(stop_ids);
            if let Ok(tokenizer) = self.tokenizer() {
                sampling.xtc_exempt.extend(tokenizer.encode("\n", false)?);
            }
        }
        Ok(sampling)
    }
}

/// Text of an answer from its ids: whole characters, up to a stop string.
struct Writer {
    detokenizer: Detokenizer,
    stops: StopStrings,
    /// Tokens whose text is not searched for stop strings.
    n_unsearched: usize,
    stopped: bool,
}

impl Writer {
    fn new(stops: &[String], n_unsearched: usize) -> Self {
        Self { detokenizer: Detokenizer::new(true), stops: StopStrings::new(stops), n_unsearched, stopped: false }
    }

    fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, Error> {
        let text = self.detokenizer.push(tokenizer, id)?;
        if self.n_unsearched > 0 {
            self.n_unsearched -= 1;
            return Ok(text);
        }
        let (text, stopped) = self.stops.push(&text);
        self.stopped = stopped;
        Ok(text)
    }

    fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, Error> {
        let (mut text, stopped) = self.stops.push(&self.detokenizer.finish(tokenizer)?);
        self.stopped = stopped;
        if !stopped {
            text += &self.stops.finish();
        }
        Ok(text)
    }
}
