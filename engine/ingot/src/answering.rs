//! A request under way: its events become pieces of text.

use crate::generate::{Answer, GenerateOptions, Logprobs, Piece, Stats};
use crate::language::Language;
use crate::{Error, Model};
use ingot_models::text::detokenizer::Detokenizer;
use ingot_models::text::stop::StopStrings;
use ingot_models::text::tokenizer::Tokenizer;
use ingot_runtime::sample::Sampling;
use ingot_runtime::world::{Event, FinishReason, Request, RequestId, World};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is known of a request's answer so far.
pub(crate) struct Answering {
    request: RequestId,
    language: Arc<Language>,
    stop_ids: Vec<u32>,
    writer: Writer,
    text: String,
    ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
    /// Of the token that the next event tells.
    next_logprobs: Option<Logprobs>,
    /// Whether tokens that still come are dropped: a stop string came, or the client went away.
    is_cut: bool,
    finish: Option<FinishReason>,
    n_prompt: usize,
    n_cached: usize,
    n_prefilled: usize,
    clock: Clock,
}

impl Answering {
    /// Puts a request in line.
    pub(crate) fn begin(model: &mut Model, prompt: &[u32], options: &GenerateOptions) -> Result<Self, Error> {
        let request = request(&model.language, prompt.to_vec(), options, model.world.plan.n_vocab)?;
        Self::of(model, request, options)
    }

    /// Puts a request that was made of these options in line.
    pub(crate) fn of(model: &mut Model, request: Request, options: &GenerateOptions) -> Result<Self, Error> {
        let clock = Clock::begin(&model.world);
        let (stop_ids, n_prompt) = (request.stop_ids.clone(), request.prompt.len());
        let request = model.world.submit(request)?;
        Ok(Self {
            request,
            language: Arc::clone(&model.language),
            stop_ids,
            writer: Writer::new(&options.stop, options.sampling.min_tokens as usize),
            text: String::new(),
            ids: Vec::new(),
            logprobs: Vec::new(),
            next_logprobs: None,
            is_cut: false,
            finish: None,
            n_prompt,
            n_cached: 0,
            n_prefilled: 0,
            clock,
        })
    }

    pub(crate) fn request(&self) -> RequestId {
        self.request
    }

    /// Ends the answer; what is in flight is dropped. Its last piece still comes.
    pub(crate) fn stop(&mut self, world: &mut World) {
        if !self.is_cut {
            self.is_cut = true;
            world.cancel(self.request);
        }
    }

    /// Takes an event of the request. Its last piece tells why it ended.
    pub(crate) fn hear(&mut self, event: Event, world: &mut World) -> Result<Option<Piece>, Error> {
        match event {
            Event::Matched { n_tokens, .. } => {
                self.n_cached = n_tokens as usize;
                self.n_prefilled = self.n_cached;
            }
            Event::Logprobs { logprob, best, .. } => self.next_logprobs = Some(Logprobs { chosen: logprob, best }),
            Event::Token { id, .. } if !self.is_cut => return self.token(id, world).map(Some),
            Event::Unfit { why, .. } => return Err(ingot_models::Error::Grammar(why).into()),
            Event::Finished { reason, .. } => return self.end(reason, world).map(Some),
            Event::Prefilled { n_tokens, .. } => {
                self.n_prefilled = n_tokens as usize;
                self.clock.prefilled();
                // With the prompt's end comes the first token.
                if self.n_prefilled < self.n_prompt && !self.is_cut {
                    return Ok(Some(self.piece(None, String::new(), world)));
                }
            }
            Event::Token { .. } | Event::Logits { .. } => {}
        }
        Ok(None)
    }

    fn token(&mut self, id: u32, world: &mut World) -> Result<Piece, Error> {
        self.clock.token(world);
        self.ids.push(id);
        let logprobs = self.next_logprobs.take();
        self.logprobs.extend(logprobs.clone());
        // An end token adds no text.
        let text = match self.language.tokenizer() {
            Ok(tokenizer) if !self.stop_ids.contains(&id) => self.writer.push(tokenizer, id)?,
            _ => String::new(),
        };
        self.text.push_str(&text);
        if self.writer.stopped {
            self.stop(world);
        }
        Ok(Piece { logprobs, ..self.piece(Some(id), text, world) })
    }

    fn piece(&self, id: Option<u32>, text: String, world: &World) -> Piece {
        Piece { id, text, logprobs: None, from_draft: false, finish: None, stats: self.stats(world) }
    }

    fn end(&mut self, reason: FinishReason, world: &World) -> Result<Piece, Error> {
        let rest = match self.language.tokenizer() {
            Ok(tokenizer) if !self.writer.stopped => self.writer.finish(tokenizer)?,
            _ => String::new(),
        };
        self.text.push_str(&rest);
        let finish = if self.writer.stopped { FinishReason::Stop } else { reason };
        self.finish = Some(finish);
        Ok(Piece { finish: Some(finish), ..self.piece(None, rest, world) })
    }

    fn stats(&self, world: &World) -> Stats {
        Stats {
            n_prompt: self.n_prompt,
            n_cached: self.n_cached,
            n_prefilled: self.n_prefilled,
            n_generated: self.ids.len(),
            ..self.clock.stats(world)
        }
    }

    /// The whole answer, as far as it came.
    pub(crate) fn answer(self, world: &World) -> Answer {
        let stats = self.stats(world);
        let finish = self.finish.unwrap_or(FinishReason::Cancelled);
        Answer { text: self.text, ids: self.ids, logprobs: self.logprobs, finish, stats }
    }
}

/// What is asked of a model with so many ids, the form of the answer begun.
pub(crate) fn request(
    language: &Language,
    prompt: Vec<u32>,
    options: &GenerateOptions,
    n_vocab: u32,
) -> Result<Request, Error> {
    let mut stop_ids = options.stop_ids.clone();
    if !options.ignore_eos {
        stop_ids.extend_from_slice(language.eos_ids());
    }
    Ok(Request {
        prompt,
        sampling: exempting(language, &options.sampling, &stop_ids)?,
        grammar: options.grammar.as_ref().map(|grammar| language.form(grammar, n_vocab)).transpose()?,
        stop_ids,
        max_tokens: options.max_tokens,
        prompt_logits: false,
        cache_prompt: true,
    })
}

/// The sampling with line ends and end tokens exempt from XTC, as mlx-lm has it.
fn exempting(language: &Language, sampling: &Sampling, stop_ids: &[u32]) -> Result<Sampling, Error> {
    let mut sampling = sampling.clone();
    if sampling.xtc_probability > 0.0 {
        sampling.xtc_exempt.extend_from_slice(stop_ids);
        if let Ok(tokenizer) = language.tokenizer() {
            sampling.xtc_exempt.extend(tokenizer.encode("\n", false)?);
        }
    }
    Ok(sampling)
}

/// When things happened.
struct Clock {
    started: Instant,
    first_at: Option<Instant>,
    last_at: Instant,
    device_ns_at_first: u64,
    submit_ns_before: u64,
    n_steps_before: u64,
}

impl Clock {
    fn begin(world: &World) -> Self {
        let started = Instant::now();
        Self {
            started,
            first_at: None,
            last_at: started,
            device_ns_at_first: world.device_ns,
            submit_ns_before: world.submit_ns,
            n_steps_before: world.n_steps,
        }
    }

    fn prefilled(&mut self) {
        if self.first_at.is_none() {
            self.last_at = Instant::now();
        }
    }

    fn token(&mut self, world: &World) {
        self.last_at = Instant::now();
        if self.first_at.is_none() {
            self.device_ns_at_first = world.device_ns;
            self.first_at = Some(self.last_at);
        }
    }

    /// Times and memory; all counts are 0.
    fn stats(&self, world: &World) -> Stats {
        let first_at = self.first_at.unwrap_or(self.last_at);
        let device_ns = self.first_at.map_or(0, |_| world.device_ns - self.device_ns_at_first);
        let n_steps = (world.n_steps - self.n_steps_before).max(1);
        Stats {
            n_prompt: 0,
            n_cached: 0,
            n_prefilled: 0,
            n_generated: 0,
            first_token: first_at - self.started,
            generation: self.last_at - first_at,
            device: (device_ns > 0).then(|| Duration::from_nanos(device_ns)),
            submit_per_step: Duration::from_nanos((world.submit_ns - self.submit_ns_before) / n_steps),
            memory: world.backend.memory(),
        }
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
