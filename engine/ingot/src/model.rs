//! A loaded model.

use crate::Error;
use crate::language::Language;
use crate::weights::Weights;
use ingot_ir::plan::VariantId;
use ingot_models::text::chat_template::ChatOptions;
use ingot_models::text::tokenizer::Tokenizer;
use ingot_runtime::sample::Sampling;
use ingot_runtime::tick;
use ingot_runtime::world::{Event, Request, RequestId, World};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model that is ready to run, with its tokenizer and chat template.
///
/// ```
/// use ingot::{DeviceChoice, LoadOptions, Model};
///
/// let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
/// let model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
/// println!("{}: {} tokens of context", model.device(), model.facts().max_context);
/// # assert_eq!(model.facts().max_context, 1024);
/// # Ok::<(), ingot::Error>(())
/// ```
pub struct Model {
    pub(crate) world: World,
    device: String,
    pub(crate) language: Arc<Language>,
    /// The checkpoint or artifact that it was loaded from.
    pub(crate) source: Option<Arc<Weights>>,
    /// The name that it was loaded by.
    pub(crate) origin: Option<PathBuf>,
}

/// What a plan does for one token, and what it takes at most.
///
/// ```
/// use ingot::PlanFacts;
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let PlanFacts { n_dispatches, weight_bytes, n_vocab, .. } = model.facts();
/// println!("{n_dispatches} kernels read {weight_bytes} bytes of weights a token");
/// assert_eq!(n_vocab, 4096);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlanFacts {
    /// Kernel launches.
    pub n_dispatches: usize,
    /// Weight bytes read.
    pub weight_bytes: u64,
    /// Distinct kernels of the whole plan.
    pub n_kernels: usize,
    /// Longest sequence.
    pub max_context: u32,
    /// Token ids are below this.
    pub n_vocab: u32,
    /// Tokens of the largest step: a longer prompt is read in chunks of this many.
    pub max_step_tokens: u32,
}

impl Model {
    pub(crate) fn new(world: World, device: String, language: Language, source: Option<Arc<Weights>>) -> Self {
        Self { world, device, language: Arc::new(language), source, origin: None }
    }

    /// Name of the device that runs it: the adapter's, or `CPU` with what it computes with.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// assert!(model.device().starts_with("CPU ("));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What it was loaded from: an absolute path, or a hub's `owner/name[:QUANT][@revision]`; `None` for random weights. Files of
    /// [`Model::save_prompt`] tell it.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// assert!(model.origin().unwrap().ends_with("models/ingot-tales-1m"));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn origin(&self) -> Option<&Path> {
        self.origin.as_deref()
    }

    /// Gives it another name than that of its path, e.g. that of the hub that its folder came from.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// model.set_origin("ingot-tales-1m");
    /// assert_eq!(model.origin(), Some("ingot-tales-1m".as_ref()));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn set_origin(&mut self, origin: impl Into<PathBuf>) {
        self.origin = Some(origin.into());
    }

    /// Tokenizer and chat template.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let ids = model.language().text_prompt("Once upon a time")?;
    /// assert_eq!(ids, model.text_prompt("Once upon a time")?);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn language(&self) -> &Language {
        &self.language
    }

    /// The tokenizer: that of [`Model::language`].
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let ids = model.tokenizer()?.encode(" who loved pizza.", false)?;
    /// assert_eq!(model.tokenizer()?.decode(&ids, true)?, " who loved pizza.");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Language::tokenizer`].
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.language.tokenizer()
    }

    /// Ids that end an answer, unless [`ignore_eos`](crate::GenerateOptions::ignore_eos) is set.
    ///
    /// ```
    /// use ingot::{FinishReason, GenerateOptions};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let options = GenerateOptions { max_tokens: 1000, ..GenerateOptions::default() };
    /// let answer = model.generate(&model.chat_prompt("Tell me a story.")?, &options, |_| true)?;
    /// assert_eq!(answer.finish, FinishReason::Stop);
    /// assert!(model.eos_ids().contains(answer.ids.last().unwrap()));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn eos_ids(&self) -> &[u32] {
        self.language.eos_ids()
    }

    /// Whether messages are put into a chat template. If not, prompts are the last message alone.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// assert!(model.has_chat_template());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn has_chat_template(&self) -> bool {
        self.language.has_chat_template()
    }

    /// Puts messages into ChatML from now on, if the model has no chat template of its own. While an [`crate::Engine`] or
    /// others share the model's text side, nothing changes.
    ///
    /// ```
    /// # use ingot::{ChatOptions, DeviceChoice, LoadOptions, Model, RandomShape};
    /// # let shape = RandomShape { n_layers: 1, n_vocab: 64, ..RandomShape::named("smollm2-135m")? };
    /// # let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    /// # let mut model = Model::load_random(&shape, options)?;
    /// assert!(!model.has_chat_template());
    /// model.use_default_chat_template();
    /// let messages = serde_json::json!([{ "role": "user", "content": "Hi" }]);
    /// let text = model.language().messages_text(&messages, &ChatOptions::default())?;
    /// assert_eq!(text.unwrap(), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn use_default_chat_template(&mut self) {
        if let Some(language) = Arc::get_mut(&mut self.language) {
            language.use_default_chat_template();
        }
    }

    /// Tokens that a prompt may have beside an answer of `max_tokens`, for which a quarter of the context is kept at most.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// assert_eq!(model.facts().max_context, 1024);
    /// assert_eq!((model.room_beside(100), model.room_beside(1000)), (924, 768));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn room_beside(&self, max_tokens: u32) -> usize {
        let context = self.world.plan.max_context;
        (context - max_tokens.min(context / 4)) as usize
    }

    /// Token ids of a user's message: [`Language::chat_prompt`].
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let prompt = model.chat_prompt("Tell me a story.")?;
    /// assert!(prompt.len() > model.text_prompt("Tell me a story.")?.len(), "the template's tokens come on top");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Language::messages_prompt`].
    pub fn chat_prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.language.chat_prompt(text)
    }

    /// Token ids of messages: [`Language::messages_prompt`].
    ///
    /// ```
    /// use ingot::ChatOptions;
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let messages = serde_json::json!([{ "role": "user", "content": "Hi" }]);
    /// assert_eq!(model.messages_prompt(&messages, &ChatOptions::default())?, model.chat_prompt("Hi")?);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Language::messages_prompt`].
    pub fn messages_prompt(&self, messages: &Value, options: &ChatOptions) -> Result<Vec<u32>, Error> {
        self.language.messages_prompt(messages, options)
    }

    /// Token ids of a plain text: [`Language::text_prompt`].
    ///
    /// ```
    /// use ingot::GenerateOptions;
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let prompt = model.text_prompt("Once upon a time")?;
    /// let answer = model.generate(&prompt, &GenerateOptions::default(), |_| true)?;
    /// assert_eq!(answer.stats.n_prompt, prompt.len());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn text_prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.language.text_prompt(text)
    }

    /// Logits of every prompt token, `[token][vocabulary]`, and the vocabulary's size. They are all held in memory.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let prompt = model.text_prompt("Once upon a")?;
    /// let (logits, n_vocab) = model.logits(&prompt)?;
    /// assert_eq!(logits.len(), prompt.len() * n_vocab);
    /// let next = ingot::runtime::sample::argmax(&logits[logits.len() - n_vocab..]);
    /// assert_eq!(model.tokenizer()?.decode(&[next], true)?, " time");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::stream`], and those of the device.
    pub fn logits(&mut self, prompt: &[u32]) -> Result<(Vec<f32>, usize), Error> {
        let mut all = Vec::new();
        self.each_logits(prompt, |logits| all.extend_from_slice(logits))?;
        Ok((all, self.world.plan.n_vocab as usize))
    }

    /// As [`Model::logits`], a few tokens' rows at a time: `each` gets them in order.
    pub(crate) fn each_logits(&mut self, prompt: &[u32], each: impl FnMut(&[f32])) -> Result<(), Error> {
        let done = self.prompt_logits(prompt, each);
        if done.is_err() {
            self.abandon();
        }
        done
    }

    fn prompt_logits(&mut self, prompt: &[u32], mut each: impl FnMut(&[f32])) -> Result<(), Error> {
        let request = Request {
            prompt: prompt.to_vec(),
            sampling: Sampling::default(),
            grammar: None,
            stop_ids: Vec::new(),
            max_tokens: 0,
            prompt_logits: true,
            cache_prompt: false,
        };
        self.world.submit(request)?;
        while !self.world.is_idle() {
            tick::run(&mut self.world)?;
            for event in self.world.events.drain(..) {
                if let Event::Logits { logits, .. } = event {
                    each(&logits);
                }
            }
        }
        Ok(())
    }

    /// Ends what an error left behind, so that the next request finds nothing of it.
    pub(crate) fn abandon(&mut self) {
        let waiting = self.world.waiting.iter().map(|(request, _)| *request);
        let running = self.world.sequences.live().map(|row| self.world.sequences.request[row]);
        let all: Vec<RequestId> = waiting.chain(running).collect();
        all.into_iter().for_each(|request| self.world.cancel(request));
        // A device that fails here too will say so to the next request.
        while !self.world.is_idle() && tick::run(&mut self.world).is_ok() {
            self.world.events.clear();
        }
        self.world.events.clear();
        // What a step that failed has written is nothing to go on with.
        self.world.forget_prefixes();
    }

    /// What the plan does for one token.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let facts = model.facts();
    /// assert!(facts.n_dispatches > 0 && facts.weight_bytes > 1_000_000 && facts.max_context == 1024);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn facts(&self) -> PlanFacts {
        let plan = &self.world.plan;
        let one = VariantId(0);
        PlanFacts {
            n_dispatches: plan.dispatches_of(one).len(),
            weight_bytes: plan.weight_bytes_of(one),
            n_kernels: plan.kernels.len(),
            max_context: plan.max_context,
            n_vocab: plan.n_vocab,
            max_step_tokens: plan.max_bounds().tokens,
        }
    }

    /// Bytes of this model in use and their peak. Several models are counted together by
    /// [`LoadOptions::memory`](crate::LoadOptions).
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let memory = model.memory();
    /// assert!(memory.active > model.facts().weight_bytes && memory.peak >= memory.active);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn memory(&self) -> ingot_runtime::backend::MemoryUse {
        self.world.backend.memory()
    }
}
