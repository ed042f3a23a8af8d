//! Generating text.

use crate::{Error, Model};
use ingot_models::text::detokenizer::Detokenizer;
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
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whether an end token does not end the answer.
    pub ignore_eos: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: 100, sampling: Sampling::default(), ignore_eos: false }
    }
}

/// A token of the answer, with the text that it completes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The id; `None` for text that was held back until the end.
    pub id: Option<u32>,
    /// Text, perhaps empty: half characters are held back.
    pub text: String,
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
        let stop_ids = if options.ignore_eos { Vec::new() } else { self.eos_ids().to_vec() };
        let started = Instant::now();
        let request = Request {
            prompt: prompt.to_vec(),
            sampling: options.sampling,
            stop_ids: stop_ids.clone(),
            max_tokens: options.max_tokens,
            prompt_logits: false,
        };
        let request = self.world.submit(request)?;
        let mut detokenizer = Detokenizer::new(true);
        let (mut text, mut ids, mut finish) = (String::new(), Vec::new(), FinishReason::Length);
        let (mut first_at, mut last_at) = (None, started);
        let mut device_ns_at_first = 0;
        let (submit_ns_before, n_steps_before) = (self.world.submit_ns, self.world.n_steps);
        let mut shown = true;
        while !self.world.is_idle() {
            tick::run(&mut self.world)?;
            let events = std::mem::take(&mut self.world.events);
            for event in &events {
                match *event {
                    Event::Token { request: of, id } if of == request => {
                        last_at = Instant::now();
                        if first_at.is_none() {
                            device_ns_at_first = self.world.device_ns;
                            first_at = Some(last_at);
                        }
                        ids.push(id);
                        // An end token adds no text.
                        let piece = match self.tokenizer() {
                            Ok(tokenizer) if !stop_ids.contains(&id) => detokenizer.push(tokenizer, id)?,
                            _ => String::new(),
                        };
                        text.push_str(&piece);
                        if shown && !on_piece(&Piece { id: Some(id), text: piece }) {
                            shown = false;
                            self.world.cancel(request);
                        }
                    }
                    Event::Finished { request: of, reason } if of == request => finish = reason,
                    _ => {}
                }
            }
            // The vector goes back, so that its memory is used again.
            if self.world.events.is_empty() {
                self.world.events = events;
                self.world.events.clear();
            }
        }
        if let Ok(tokenizer) = self.tokenizer() {
            let rest = detokenizer.finish(tokenizer)?;
            if !rest.is_empty() {
                text.push_str(&rest);
                if shown {
                    on_piece(&Piece { id: None, text: rest });
                }
            }
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
        Ok(Answer { text, ids, finish, stats })
    }
}
