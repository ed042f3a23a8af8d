//! A conversation with a model.

use crate::generate::{Answer, GenerateOptions, Piece};
use crate::language::Language;
use crate::{Error, Model};
use ingot_models::text::chat_template::ChatOptions;
use ingot_runtime::world::FinishReason;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One message, in JSON as chat APIs have it.
///
/// ```
/// use ingot::Message;
///
/// let message: Message = serde_json::from_str(r#"{ "role": "user", "content": "Hello" }"#)?;
/// assert_eq!(message, Message { role: "user".into(), content: "Hello".into() });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    /// `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A system message, then messages of user and assistant in turn. Each turn is rendered whole by the model's chat template,
/// but only its new tokens are read: keys and values of the earlier ones are found in the model's cache
/// ([`Stats::n_cached`](crate::Stats)), as long as other requests leave them there. An answer stays the tokens that it was
/// generated as, even if its text would be cut into others.
///
/// ```
/// use ingot::{Conversation, GenerateOptions};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let mut talk = Conversation::default();
/// let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
/// talk.say(&mut model, "Tell me a story.", &options, |_| true)?;
/// let second = talk.say(&mut model, "And then?", &options, |_| true)?;
/// assert!(second.stats.n_cached > 0);
/// assert_eq!((talk.messages.len(), &*talk.messages[3].content), (4, &*second.text));
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Conversation {
    /// What the model is told before the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Messages of `user` and `assistant` in turn.
    pub messages: Vec<Message>,
    /// The newest prompt, or with its answer what the next one begins with.
    #[serde(skip)]
    told: Option<Told>,
}

/// A text and its tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Told {
    text: String,
    ids: Vec<u32>,
}

impl Conversation {
    /// An empty conversation after a system message.
    ///
    /// ```
    /// let talk = ingot::Conversation::with_system("Be brief.");
    /// assert_eq!(talk.rendered()[0]["role"], "system");
    /// assert!(talk.messages.is_empty());
    /// ```
    pub fn with_system(text: impl Into<String>) -> Self {
        Self { system: Some(text.into()), ..Self::default() }
    }

    /// Adds a message, e.g. of a conversation that was held elsewhere.
    ///
    /// ```
    /// let mut talk = ingot::Conversation::default();
    /// talk.push("user", "My name is Ada.");
    /// talk.push("assistant", "Hello Ada!");
    /// assert_eq!(talk.messages[1].content, "Hello Ada!");
    /// ```
    pub fn push(&mut self, role: &str, content: impl Into<String>) {
        self.messages.push(Message { role: role.to_owned(), content: content.into() });
    }

    /// All messages as a chat template takes them: a list of objects with `role` and `content`, the system message first.
    ///
    /// ```
    /// use ingot::{ChatOptions, Conversation};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let mut talk = Conversation::default();
    /// talk.push("user", "Hello");
    /// assert_eq!(model.messages_prompt(&talk.rendered(), &ChatOptions::default())?, model.chat_prompt("Hello")?);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn rendered(&self) -> Value {
        let system = self.system.iter().map(|text| json!({ "role": "system", "content": text }));
        let messages = self.messages.iter().map(|message| json!({ "role": message.role, "content": message.content }));
        Value::Array(system.chain(messages).collect())
    }

    /// Drops the oldest message and its answer; the newest message stays. False if there is nothing to drop.
    ///
    /// ```
    /// let mut talk = ingot::Conversation::default();
    /// for (role, text) in [("user", "a"), ("assistant", "b"), ("user", "c")] {
    ///     talk.push(role, text);
    /// }
    /// assert!(talk.forget_oldest());
    /// assert_eq!(talk.messages[0].content, "c");
    /// assert!(!talk.forget_oldest());
    /// ```
    pub fn forget_oldest(&mut self) -> bool {
        if self.messages.len() < 3 {
            return false;
        }
        self.messages.drain(..2);
        true
    }

    /// The conversation as token ids. While it has more than `most` of them, the oldest exchanges are dropped; also gives
    /// how many were. For programs that generate otherwise than by [`Conversation::say`].
    ///
    /// ```
    /// use ingot::{ChatOptions, Conversation};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let mut talk = Conversation::default();
    /// for (role, text) in [("user", "Hello"), ("assistant", "Hello!"), ("user", "Who are you?")] {
    ///     talk.push(role, text);
    /// }
    /// let (prompt, n_dropped) = talk.prompt(model.language(), 20, &ChatOptions::default())?;
    /// assert_eq!((prompt, n_dropped), (model.chat_prompt("Who are you?")?, 1));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the template and the tokenizer.
    pub fn prompt(
        &mut self,
        language: &Language,
        most: usize,
        options: &ChatOptions,
    ) -> Result<(Vec<u32>, usize), Error> {
        let mut n_dropped = 0;
        loop {
            let messages = self.rendered();
            let text = language.messages_text(&messages, options)?;
            let prompt = match &text {
                Some(text) => self.ids(language, text)?,
                None => language.messages_prompt(&messages, options)?,
            };
            if prompt.len() <= most || !self.forget_oldest() {
                self.told = text.map(|text| Told { text, ids: prompt.clone() });
                return Ok((prompt, n_dropped));
            }
            n_dropped += 1;
        }
    }

    /// Adds the answer to the newest [`Conversation::prompt`].
    ///
    /// ```
    /// use ingot::{ChatOptions, Conversation, GenerateOptions};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let mut talk = Conversation::default();
    /// talk.push("user", "Tell me a story.");
    /// let (prompt, _) = talk.prompt(model.language(), model.room_beside(8), &ChatOptions::default())?;
    /// let answer = model.generate(&prompt, &GenerateOptions { max_tokens: 8, ..Default::default() }, |_| true)?;
    /// talk.answered(model.language(), &answer);
    /// assert_eq!(talk.messages[1].content, answer.text);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn answered(&mut self, language: &Language, answer: &Answer) {
        self.push("assistant", answer.text.clone());
        // The end token, if there is one, is the template's affair; and what a stop string has cut is no part of the text.
        let is_text =
            |ids: &[u32]| language.tokenizer()?.decode(ids, true).map(|text| text == answer.text).map_err(Error::from);
        let without_end = &answer.ids[..answer.ids.len().saturating_sub(1)];
        let ends = answer.finish == FinishReason::Stop;
        let ids = if ends { without_end } else { &answer.ids[..] };
        self.told = self.told.take().filter(|_| is_text(ids).unwrap_or(false)).map(|mut told| {
            told.text += &answer.text;
            told.ids.extend_from_slice(ids);
            told
        });
    }

    /// Tokens of the rendered text; those of its beginning as they were.
    fn ids(&self, language: &Language, text: &str) -> Result<Vec<u32>, Error> {
        let tokenizer = language.tokenizer()?;
        if let Some(told) = &self.told
            && let Some(rest) = text.strip_prefix(&told.text)
        {
            let new = tokenizer.encode(rest, false)?;
            // Where a token of its own begins the rest, such as the end of a message, nothing before it matters.
            let first = new.first().and_then(|id| tokenizer.token(*id));
            if first.is_some_and(|token| rest.starts_with(&token)) {
                return Ok([&told.ids[..], &new].concat());
            }
        }
        Ok(tokenizer.encode(text, false)?)
    }

    /// Adds a message and its answer. If there is none, the conversation is as before. `on_piece` sees every piece as it
    /// comes and ends the answer by returning false. What does not fit the context is dropped, the oldest first.
    ///
    /// ```
    /// use ingot::{Conversation, GenerateOptions};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let mut talk = Conversation::default();
    /// let mut shown = String::new();
    /// let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
    /// let answer = talk.say(&mut model, "Tell me a story.", &options, |piece| {
    ///     shown += &piece.text;
    ///     true
    /// })?;
    /// assert_eq!(answer.text, shown);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::stream`], and those of the template.
    pub fn say(
        &mut self,
        model: &mut Model,
        text: &str,
        options: &GenerateOptions,
        on_piece: impl FnMut(&Piece) -> bool,
    ) -> Result<Answer, Error> {
        let before = self.clone();
        self.push("user", text);
        let room = model.room_beside(options.max_tokens);
        let prompt = self.prompt(model.language(), room, &ChatOptions::default());
        match prompt.and_then(|(prompt, _)| model.generate(&prompt, options, on_piece)) {
            // Ended before its first token.
            Ok(answer) if answer.ids.is_empty() && answer.finish == FinishReason::Cancelled => {
                *self = before;
                Ok(answer)
            }
            Ok(answer) => {
                self.answered(model.language(), &answer);
                Ok(answer)
            }
            Err(error) => {
                *self = before;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_exchange_is_forgotten_first_and_the_newest_message_never() {
        let mut talk = Conversation::with_system("Be brief.");
        for (role, text) in [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")] {
            talk.push(role, text);
        }
        assert!(talk.forget_oldest() && talk.messages[0].content == "c");
        assert!(talk.forget_oldest() && talk.messages[0].content == "e");
        assert!(!talk.forget_oldest());
        assert_eq!(
            talk.rendered(),
            json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "e" }])
        );
    }
}
