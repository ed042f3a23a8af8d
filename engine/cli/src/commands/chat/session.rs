//! The messages of a conversation, and their file.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) role: String,
    pub(super) content: String,
}

/// A conversation: a system message, then user and assistant in turn.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Session {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<String>,
    pub(super) messages: Vec<Message>,
}

impl Session {
    pub(super) fn new(system: Option<String>) -> Self {
        Self { system, messages: Vec::new() }
    }

    pub(super) fn push(&mut self, role: &str, content: String) {
        self.messages.push(Message { role: role.to_owned(), content });
    }

    /// All messages as a chat template takes them.
    pub(super) fn rendered(&self) -> Value {
        let system = self.system.iter().map(|text| json!({ "role": "system", "content": text }));
        let messages = self.messages.iter().map(|message| json!({ "role": message.role, "content": message.content }));
        Value::Array(system.chain(messages).collect())
    }

    /// Drops the oldest message and its answer; the newest message stays. False if there is nothing to drop.
    pub(super) fn forget_oldest(&mut self) -> bool {
        if self.messages.len() < 3 {
            return false;
        }
        self.messages.drain(..2);
        true
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("the conversation as JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
    }

    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let session: Self = serde_json::from_str(&text)
            .with_context(|| format!("{}: no conversation that /save has written", path.display()))?;
        let in_turn = session.messages.iter().zip(["user", "assistant"].iter().cycle());
        if !session.messages.len().is_multiple_of(2) || in_turn.into_iter().any(|(message, role)| message.role != *role)
        {
            bail!("{}: the messages are not `user` and `assistant` in turn", path.display());
        }
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let mut session = Session::new(Some("Be brief.".into()));
        for (role, text) in [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d\n\"é\"")] {
            session.push(role, text.into());
        }
        session
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("talk.json");
        session().save(&path).expect("is written");
        assert_eq!(Session::load(&path).expect("is read"), session());
        for (wrong, part) in [
            ("{", "no conversation"),
            ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "in turn"),
            (
                "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\"}]}",
                "in turn",
            ),
        ] {
            std::fs::write(&path, wrong).expect("is written");
            let message = format!("{:#}", Session::load(&path).expect_err("it is wrong"));
            assert!(message.contains(part) && message.contains("talk.json"), "{message}");
        }
    }

    #[test]
    fn the_oldest_exchange_is_forgotten_first_and_the_newest_message_never() {
        let mut session = session();
        session.push("user", "e".into());
        assert!(session.forget_oldest() && session.messages[0].content == "c");
        assert!(session.forget_oldest() && session.messages[0].content == "e");
        assert!(!session.forget_oldest());
        assert_eq!(
            session.rendered(),
            json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "e" }])
        );
    }
}
