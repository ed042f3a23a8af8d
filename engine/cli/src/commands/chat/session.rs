//! Conversations in files.

use anyhow::{Context, Result, bail};
use ingot::Conversation;
use std::path::Path;

pub(super) fn save(talk: &Conversation, path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(talk).context("the conversation as JSON")?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

pub(super) fn load(path: &Path) -> Result<Conversation> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let talk: Conversation = serde_json::from_str(&text)
        .with_context(|| format!("{}: no conversation that /save has written", path.display()))?;
    let in_turn = talk.messages.iter().zip(["user", "assistant"].iter().cycle());
    if !talk.messages.len().is_multiple_of(2) || in_turn.into_iter().any(|(message, role)| message.role != *role) {
        bail!("{}: the messages are not `user` and `assistant` in turn", path.display());
    }
    Ok(talk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Conversation {
        let mut talk = Conversation::with_system("Be brief.");
        for (role, text) in [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d\n\"é\"")] {
            talk.push(role, text);
        }
        talk
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("talk.json");
        save(&talk(), &path).expect("is written");
        assert_eq!(load(&path).expect("is read"), talk());
        for (wrong, part) in [
            ("{", "no conversation"),
            ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "in turn"),
            (
                "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\"}]}",
                "in turn",
            ),
        ] {
            std::fs::write(&path, wrong).expect("is written");
            let message = format!("{:#}", load(&path).expect_err("it is wrong"));
            assert!(message.contains(part) && message.contains("talk.json"), "{message}");
        }
    }
}
