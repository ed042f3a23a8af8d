//! A model's text side: tokenizer, chat template and end tokens.

use crate::Error;
use ingot_models::text::chat_template::{ChatOptions, ChatTemplate};
use ingot_models::text::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// Turns texts and messages into token ids. Shared by a [`Model`](crate::Model) and its [`Engine`](crate::Engine).
///
/// ```
/// use ingot::Language;
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let language: &Language = model.language();
/// let ids = language.text_prompt("Once upon a time")?;
/// assert_eq!(language.tokenizer()?.decode(&ids, true)?, "Once upon a time");
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
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let tokenizer = model.language().tokenizer()?;
    /// let ids = tokenizer.encode("Hello, dragon!", false)?;
    /// assert_eq!(tokenizer.decode(&ids, true)?, "Hello, dragon!");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] if there is none, [`Error::Unusable`] if it could not be read.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.tokenizer.as_ref().map_err(copy)
    }

    /// Ids that end an answer.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let end = model.language().tokenizer()?.token_id("<|im_end|>").unwrap();
    /// assert!(model.language().eos_ids().contains(&end));
    /// # Ok::<(), ingot::Error>(())
    /// ```
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
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// assert!(model.language().has_chat_template());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn has_chat_template(&self) -> bool {
        matches!(self.template, Ok(Some(_)))
    }

    /// Token ids of a user's message in the model's chat template; of the plain text if there is no template.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let language = model.language();
    /// let text = language.tokenizer()?.decode(&language.chat_prompt("Hi")?, false)?;
    /// assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Language::messages_prompt`].
    pub fn chat_prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.messages_prompt(&json!([{ "role": "user", "content": text }]), &ChatOptions::default())
    }

    /// Token ids of messages in the model's chat template; of the last message's text if there is no template. `messages` is a
    /// list of objects with `role` and `content`, and whatever else the template knows.
    ///
    /// ```
    /// use ingot::ChatOptions;
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let messages = serde_json::json!([
    ///     { "role": "system", "content": "Be brief." },
    ///     { "role": "user", "content": "Hi" },
    /// ]);
    /// let prompt = model.language().messages_prompt(&messages, &ChatOptions::default())?;
    /// assert!(prompt.len() > model.language().chat_prompt("Hi")?.len());
    /// # Ok::<(), ingot::Error>(())
    /// ```
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
    /// ```
    /// use ingot::ChatOptions;
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let messages = serde_json::json!([{ "role": "user", "content": "Hi" }]);
    /// let options = ChatOptions { add_generation_prompt: false, ..ChatOptions::default() };
    /// let text = model.language().messages_text(&messages, &options)?;
    /// assert_eq!(text.unwrap(), "<|im_start|>user\nHi<|im_end|>\n");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the template.
    pub fn messages_text(&self, messages: &Value, options: &ChatOptions) -> Result<Option<String>, Error> {
        let template = self.template.as_ref().map_err(copy)?;
        Ok(template.as_ref().map(|template| template.render(messages, options)).transpose()?)
    }

    /// Token ids of a plain text, with the special tokens that the tokenizer puts around a prompt.
    ///
    /// ```
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let ids = model.language().text_prompt("Once upon a time")?;
    /// assert!(model.language().text_prompt("Once upon a time there was")?.starts_with(&ids));
    /// # Ok::<(), ingot::Error>(())
    /// ```
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
