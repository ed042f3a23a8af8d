//! A model's text side: tokenizer, chat template and end tokens.

use crate::Error;
use ingot_models::text::chat_template::{ChatOptions, ChatTemplate};
use ingot_models::text::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// Turns texts and messages into token ids. Shared by a [`Model`](crate::Model) and its [`Engine`](crate::Engine).
///
/// ```
/// # use ingot::{DeviceChoice, LoadOptions, Model};
/// # let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
/// let model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
/// let ids = model.language().text_prompt("Once upon a time")?;
/// assert_eq!(model.language().tokenizer()?.decode(&ids, true)?, "Once upon a time");
/// # Ok::<(), ingot::Error>(())
/// ```
pub struct Language {
    tokenizer: Result<Tokenizer, Error>,
    template: Result<Option<ChatTemplate>, Error>,
    eos_ids: Vec<u32>,
}

impl Language {
    pub(crate) fn new(
        tokenizer: Result<Tokenizer, Error>,
        template: Result<Option<ChatTemplate>, Error>,
        eos_ids: Vec<u32>,
    ) -> Self {
        Self { tokenizer, template, eos_ids }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] if there is none, [`Error::Unusable`] if it could not be read.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.tokenizer.as_ref().map_err(copy)
    }

    /// Ids that end an answer.
    pub fn eos_ids(&self) -> &[u32] {
        self.tokenizer.as_ref().map_or(&self.eos_ids, |tokenizer| tokenizer.eos_ids())
    }

    /// Puts messages into ChatML from now on, if there is no chat template.
    pub(crate) fn use_default_chat_template(&mut self) {
        if let Ok(None) = self.template {
            self.template = Ok(Some(ChatTemplate::chat_ml()));
        }
    }

    /// Whether messages are put into a chat template. If not, prompts are the last message alone.
    pub fn has_chat_template(&self) -> bool {
        matches!(self.template, Ok(Some(_)))
    }

    /// Token ids of a user's message in the model's chat template; of the plain text if there is no template.
    ///
    /// # Errors
    /// As [`Language::messages_prompt`].
    pub fn chat_prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.messages_prompt(&json!([{ "role": "user", "content": text }]), &ChatOptions::default())
    }

    /// Token ids of messages in the model's chat template; of the last message's text if there is no template.
    ///
    /// # Errors
    /// Those of the template, which may refuse messages, and of the tokenizer.
    pub fn messages_prompt(&self, messages: &Value, options: &ChatOptions) -> Result<Vec<u32>, Error> {
        match self.messages_text(messages, options)? {
            Some(text) => Ok(self.tokenizer()?.encode(&text, false)?),
            None => {
                let last = messages.as_array().and_then(|list| list.last());
                let text = last.and_then(|message| message["content"].as_str()).unwrap_or("");
                self.text_prompt(text)
            }
        }
    }

    /// The text of messages in the model's chat template, if it has one.
    ///
    /// # Errors
    /// Those of the template.
    pub fn messages_text(&self, messages: &Value, options: &ChatOptions) -> Result<Option<String>, Error> {
        let template = self.template.as_ref().map_err(copy)?;
        Ok(template.as_ref().map(|template| template.render(messages, options)).transpose()?)
    }

    /// Token ids of a plain text, with the tokenizer's special tokens.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn text_prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.tokenizer()?.encode_prompt(text)?)
    }
}

/// An error of loading that every later use meets again.
fn copy(error: &Error) -> Error {
    match error {
        Error::NoTokenizer => Error::NoTokenizer,
        other => Error::Unusable(other.to_string()),
    }
}
