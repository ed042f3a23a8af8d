//! Generating text.

use crate::{Error, Model};
use ingot_models::text::grammar::Grammar;
use ingot_runtime::backend::MemoryUse;
use ingot_runtime::sample::Sampling;
use ingot_runtime::world::FinishReason;
use std::time::Duration;

/// How an answer is generated. Defaults are mlx-lm's.
///
/// ```
/// use ingot::{GenerateOptions, Sampling};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let sampling = Sampling { temperature: 0.7, top_p: 0.9, seed: 1, ..Sampling::default() };
/// let stop = vec![".".to_owned()];
/// let options = GenerateOptions { max_tokens: 50, sampling, stop, ..GenerateOptions::default() };
/// let answer = model.generate(&model.chat_prompt("Tell me a story.")?, &options, |_| true)?;
/// assert!(answer.ids.len() <= 50 && !answer.text.contains('.'));
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct GenerateOptions {
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// How tokens are chosen. Line ends and end tokens are exempt from XTC besides the ids that it names.
    pub sampling: Sampling,
    /// The form that the answer keeps. Its end ends the answer; before, the model's end tokens count only where the form may
    /// end. It goes before all that `sampling` says: where bias, the shortest length or the program's own change of logits leave
    /// none of the tokens that fit, these have the model's own logits. An answer that is ended by `max_tokens` or a stop string
    /// need not be whole.
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
///
/// ```
/// use ingot::{GenerateOptions, Logprobs, Sampling};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let sampling = Sampling { n_logprobs: Some(2), ..Sampling::default() };
/// let options = GenerateOptions { max_tokens: 4, sampling, ..GenerateOptions::default() };
/// let answer = model.generate(&model.chat_prompt("Tell me a story.")?, &options, |_| true)?;
/// for (id, Logprobs { chosen, best }) in answer.ids.iter().zip(&answer.logprobs) {
///     println!("{id} with probability {:.2}", chosen.exp());
///     assert_eq!((best[0], best.len()), ((*id, *chosen), 2));
/// }
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Logprobs {
    /// The chosen token's.
    pub chosen: f32,
    /// The best ids and theirs, in falling order, as many as were asked for.
    pub best: Vec<(u32, f32)>,
}

/// A token of the answer with the text that it completes; before the first one, that another part of a long prompt has been
/// read; or the answer's end.
///
/// ```
/// use ingot::{FinishReason, GenerateOptions, Piece};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let prompt = model.chat_prompt("Tell me a story.")?;
/// let options = GenerateOptions { max_tokens: 2, ignore_eos: true, ..GenerateOptions::default() };
/// let pieces: Vec<Piece> = model.stream(&prompt, &options)?.collect::<Result<_, _>>()?;
/// assert_eq!(pieces.len(), 3);
/// assert!(pieces[0].id.is_some() && pieces[0].finish.is_none());
/// assert_eq!((pieces[2].id, pieces[2].finish), (None, Some(FinishReason::Length)));
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Piece {
    /// The id; `None` while the prompt is read, and in the last piece, which has the text that was held back until the end.
    pub id: Option<u32>,
    /// Text, perhaps empty: half characters, and what may become a stop string, are held back.
    pub text: String,
    /// The token's log-probabilities, if they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Whether a draft model proposed the token and this model took it. Always false: there are no draft models yet.
    pub from_draft: bool,
    /// Why the answer ended, in its last piece.
    pub finish: Option<FinishReason>,
    /// Counts, times and memory so far.
    pub stats: Stats,
}

/// Counts and times of one answer.
///
/// ```
/// use ingot::{GenerateOptions, Stats};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// # let prompt = model.chat_prompt("Tell me a story.")?;
/// # let options = GenerateOptions { max_tokens: 4, ignore_eos: true, ..GenerateOptions::default() };
/// let stats: Stats = model.generate(&prompt, &options, |_| true)?.stats;
/// println!("{:?} to the first token, {:?} from there on", stats.first_token, stats.generation);
/// assert_eq!((stats.n_prompt, stats.n_generated), (prompt.len(), 4));
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Stats {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Those of its beginning that were in the cache already.
    pub n_cached: usize,
    /// Tokens of the prompt that are in the cache so far.
    pub n_prefilled: usize,
    /// Tokens of the answer.
    pub n_generated: usize,
    /// From the request to the first token, or while there is none to what has been read of the prompt.
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
    /// Prompt tokens that have been read, and were not in the cache already.
    ///
    /// ```
    /// # use ingot::GenerateOptions;
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// # let prompt = model.chat_prompt("Tell me a story.")?;
    /// # let options = GenerateOptions { max_tokens: 4, ignore_eos: true, ..GenerateOptions::default() };
    /// assert_eq!(model.generate(&prompt, &options, |_| true)?.stats.n_read(), prompt.len());
    /// // The same again is in the cache, but for the token that the first of the answer follows.
    /// assert!(model.generate(&prompt, &options, |_| true)?.stats.n_read() < prompt.len());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn n_read(&self) -> usize {
        self.n_prefilled.saturating_sub(self.n_cached)
    }
    /// Prompt tokens read a second, until the first token of the answer.
    ///
    /// ```
    /// # use ingot::GenerateOptions;
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// # let prompt = model.chat_prompt("Tell me a story.")?;
    /// # let options = GenerateOptions { max_tokens: 4, ignore_eos: true, ..GenerateOptions::default() };
    /// let stats = model.generate(&prompt, &options, |_| true)?.stats;
    /// assert_eq!((stats.prompt_tps() * stats.first_token.as_secs_f64()).round() as usize, prompt.len());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn prompt_tps(&self) -> f64 {
        self.n_read() as f64 / self.first_token.as_secs_f64().max(1e-9)
    }
    /// Tokens of the answer a second, after the first; 0 if there is no second.
    ///
    /// ```
    /// # use ingot::GenerateOptions;
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// # let prompt = model.chat_prompt("Tell me a story.")?;
    /// # let options = GenerateOptions { max_tokens: 4, ignore_eos: true, ..GenerateOptions::default() };
    /// let stats = model.generate(&prompt, &options, |_| true)?.stats;
    /// println!("{:.0} tokens/s", stats.generation_tps());
    /// assert_eq!(stats.generation_tps(), 3.0 / stats.generation.as_secs_f64());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn generation_tps(&self) -> f64 {
        self.n_generated.saturating_sub(1) as f64 / self.generation.as_secs_f64().max(1e-9)
    }
}

/// A finished answer.
///
/// ```
/// use ingot::{Answer, GenerateOptions};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// # let prompt = model.chat_prompt("Tell me a story.")?;
/// # let options = GenerateOptions { max_tokens: 4, ignore_eos: true, ..GenerateOptions::default() };
/// let answer: Answer = model.generate(&prompt, &options, |_| true)?;
/// assert_eq!(answer.text, model.tokenizer()?.decode(&answer.ids, true)?);
/// assert_eq!((answer.ids.len(), answer.finish.to_string()), (4, "length".to_owned()));
/// # Ok::<(), ingot::Error>(())
/// ```
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
    /// Generates an answer to a prompt. `on_piece` sees every piece as it comes and ends the answer by returning false, also
    /// while a long prompt is being read.
    /// Without a tokenizer the text stays empty.
    ///
    /// ```
    /// use ingot::GenerateOptions;
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let prompt = model.chat_prompt("Tell me a story.")?;
    /// let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
    /// let mut shown = String::new();
    /// let answer = model.generate(&prompt, &options, |piece| {
    ///     shown += &piece.text;
    ///     true
    /// })?;
    /// assert_eq!(answer.text, shown);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::stream`], and those of the device.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_piece: impl FnMut(&Piece) -> bool,
    ) -> Result<Answer, Error> {
        let mut stream = self.stream(prompt, options)?;
        while let Some(piece) = stream.next() {
            if !on_piece(&piece?) {
                stream.stop();
                break;
            }
        }
        stream.answer()
    }
}
