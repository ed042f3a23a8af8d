//! A loaded model.

use crate::Error;
use ingot_ir::plan::VariantId;
use ingot_models::text::chat_template::{ChatOptions, ChatTemplate};
use ingot_models::text::tokenizer::Tokenizer;
use ingot_runtime::sample::Sampling;
use ingot_runtime::tick;
use ingot_runtime::world::{Event, Request, RequestId, World};
use serde_json::{Value, json};

/// A model that is ready to run, with its tokenizer and chat template.
pub struct Model {
    pub(crate) world: World,
    device: String,
    tokenizer: Result<Tokenizer, Error>,
    template: Result<Option<ChatTemplate>, Error>,
    eos_ids: Vec<u32>,
}

/// What a plan does for one token.
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
    pub(crate) fn new(
        world: World,
        device: String,
        tokenizer: Result<Tokenizer, Error>,
        template: Result<Option<ChatTemplate>, Error>,
        eos_ids: Vec<u32>,
    ) -> Self {
        Self { world, device, tokenizer, template, eos_ids }
    }

    /// Name of the device that runs it.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.tokenizer.as_ref().map_err(copy)
    }

    /// Ids that end an answer.
    pub fn eos_ids(&self) -> &[u32] {
        self.tokenizer.as_ref().map_or(&self.eos_ids, |tokenizer| tokenizer.eos_ids())
    }

    /// Whether messages are put into a chat template. If not, prompts are the last message alone.
    pub fn has_chat_template(&self) -> bool {
        matches!(self.template, Ok(Some(_)))
    }

    /// Token ids of a user's message in the model's chat template; of the plain text if there is no template.
    pub fn chat_prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.messages_prompt(&json!([{ "role": "user", "content": text }]), &ChatOptions::default())
    }

    /// Token ids of messages in the model's chat template; of the last message's text if there is no template.
    pub fn messages_prompt(&self, messages: &Value, options: &ChatOptions) -> Result<Vec<u32>, Error> {
        match self.template.as_ref().map_err(copy)? {
            Some(template) => {
                let text = template.render(messages, options)?;
                Ok(self.tokenizer()?.encode(&text, false)?)
            }
            None => {
                let last = messages.as_array().and_then(|list| list.last());
                let text = last.and_then(|message| message["content"].as_str()).unwrap_or("");
                self.text_prompt(text)
            }
        }
    }

    /// Token ids of a plain text, with the tokenizer's special tokens.
    pub fn text_prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.tokenizer()?.encode_prompt(text)?)
    }

    /// Logits of every prompt token, `[token][vocabulary]`, and the vocabulary's size.
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
            stop_ids: Vec::new(),
            max_tokens: 0,
            prompt_logits: true,
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
    }

    /// What the plan does for one token.
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

    /// Bytes in use and their peak.
    pub fn memory(&self) -> ingot_runtime::backend::MemoryUse {
        self.world.backend.memory()
    }
}

/// An error of loading that every later use meets again.
fn copy(error: &Error) -> Error {
    match error {
        Error::NoTokenizer => Error::NoTokenizer,
        other => Error::Unusable(other.to_string()),
    }
}
