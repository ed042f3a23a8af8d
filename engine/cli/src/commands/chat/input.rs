//! Reads messages and commands from the terminal, with editing and history, or from a pipe.

use anyhow::{Context, Result};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// What the user said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// A message, perhaps of several lines.
    Message(String),
    /// A command's word without its slash, and the rest of its line.
    Command(String, String),
    /// The input has ended.
    End,
}

/// The terminal or pipe.
pub(super) struct Reader {
    /// `None` where what is printed goes to a program: lines are then read as they are.
    editor: Option<DefaultEditor>,
    /// The file of what was typed in earlier chats.
    history: Option<PathBuf>,
}

/// A line of standard input without its end.
fn plain_line() -> Result<Option<String>> {
    let mut line = String::new();
    let n_bytes = std::io::stdin().read_line(&mut line).context("standard input")?;
    let end = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(end);
    Ok((n_bytes > 0).then_some(line))
}

/// Entries of the history.
const MAX_HISTORY: usize = 1000;

impl Reader {
    /// For answers that a program reads: nothing but them is printed.
    pub(super) fn plain() -> Self {
        Self { editor: None, history: None }
    }

    /// What is typed is remembered in the file `history`, if any, for the next chat.
    pub(super) fn new(history: Option<PathBuf>) -> Result<Self> {
        let config = Config::builder().max_history_size(MAX_HISTORY).context("the history")?.build();
        let mut editor = DefaultEditor::with_config(config).context("the terminal")?;
        if let Some(path) = &history {
            // There is none at first, and one that cannot be read is no reason not to talk.
            let _ = mend(path);
            let _ = editor.load_history(path);
        }
        Ok(Self { editor: Some(editor), history })
    }

    /// A history that takes no entry is no reason to stop.
    fn remember(&mut self, text: &str) {
        let Some(editor) = &mut self.editor else { return };
        let is_new = editor.add_history_entry(text).unwrap_or(false);
        if let Some(path) = self.history.as_ref().filter(|_| is_new) {
            let _ = path.parent().map(std::fs::create_dir_all);
            if editor.append_history(path).is_err() && mend(path).is_ok() {
                let _ = editor.append_history(path);
            }
        }
    }

    /// The next message or command; empty ones are skipped. Ctrl-C drops what is being typed.
    pub(super) fn next(&mut self) -> Result<Entry> {
        loop {
            let Some(line) = self.line("> ")? else { return Ok(Entry::End) };
            let is_quoted = line.trim_start().starts_with(QUOTES);
            let text = assemble(line, &mut || self.line("… "))?;
            if text.trim().is_empty() {
                continue;
            }
            self.remember(&text);
            return Ok(if is_quoted { Entry::Message(text) } else { entry(text) });
        }
    }

    /// A line without its end; `None` at the end of the input. Ctrl-C gives an empty one.
    fn line(&mut self, prompt: &str) -> Result<Option<String>> {
        let Some(editor) = &mut self.editor else { return plain_line() };
        match editor.readline(prompt) {
            Ok(line) => Ok(Some(line)),
            Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
            Err(ReadlineError::Eof) => Ok(None),
            Err(error) => Err(error).context("standard input"),
        }
    }
}

/// Bytes of a history that are no text become U+FFFD: else it is neither read beyond them nor written.
fn mend(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.lock()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    if let Cow::Owned(text) = String::from_utf8_lossy(&bytes) {
        // Never shorter than what it is written over.
        file.rewind()?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

fn entry(text: String) -> Entry {
    let Some(command) = text.strip_prefix('/') else {
        return Entry::Message(text.trim().to_owned());
    };
    let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    Entry::Command(word.trim().to_owned(), rest.trim().to_owned())
}

/// Marks the beginning and the end of a text of several lines.
const QUOTES: &str = "\"\"\"";

/// A whole text from its first line and those after it, which `more` reads. A text whose quotes are never closed ends
/// with the input.
fn assemble(first: String, more: &mut impl FnMut() -> Result<Option<String>>) -> Result<String> {
    if let Some(begun) = first.trim_start().strip_prefix(QUOTES) {
        let mut text = begun.to_owned();
        loop {
            if let Some(whole) = text.trim_end().strip_suffix(QUOTES) {
                return Ok(whole.trim_matches('\n').to_owned());
            }
            let Some(line) = more()? else { return Ok(text) };
            text.push('\n');
            text.push_str(&line);
        }
    }
    let mut text = first;
    while let Some(line) = text.strip_suffix('\\') {
        let mut line = line.to_owned();
        line.push('\n');
        let Some(next) = more()? else { return Ok(line) };
        text = line + &next;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> String {
        let mut rest = lines[1..].iter();
        let mut more = || Ok(rest.next().map(|line| line.to_string()));
        let text = assemble(lines[0].to_owned(), &mut more).expect("is read");
        assert_eq!(rest.len(), 0, "all lines belong to it");
        text
    }

    #[test]
    fn texts_of_several_lines() {
        assert_eq!(read(&["one"]), "one");
        assert_eq!(read(&["one \\", "two\\", "three"]), "one \ntwo\nthree");
        assert_eq!(read(&["one\\"]), "one\n");
        assert_eq!(read(&["\"\"\"one\"\"\""]), "one");
        assert_eq!(read(&["\"\"\"", "one", "", "/two", "\"\"\""]), "one\n\n/two");
        assert_eq!(read(&["\"\"\"one", "two"]), "one\ntwo");
    }

    #[test]
    fn what_was_typed_is_there_in_the_next_chat() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/chat_history");
        let open = |path: Option<&PathBuf>| Reader::new(path.cloned()).expect("a reader");
        let kept =
            |reader: &Reader| reader.editor.as_ref().expect("an editor").history().iter().cloned().collect::<Vec<_>>();
        let (mut first, mut beside) = (open(Some(&path)), open(Some(&path)));
        first.remember("Hello\n  there");
        beside.remember("/set temp 1");
        first.remember("Bye");
        let mut both = kept(&open(Some(&path)));
        both.sort();
        assert_eq!(both, ["/set temp 1", "Bye", "Hello\n  there"], "both chats, and nothing twice");
        open(None).remember("a secret");
        assert_eq!(kept(&open(Some(&path))).len(), 3);
    }

    #[test]
    fn bytes_that_are_no_text_cost_a_history_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chat_history");
        let kept = || {
            let reader = Reader::new(Some(path.clone())).expect("a reader");
            reader.editor.expect("an editor").history().iter().cloned().collect::<Vec<_>>()
        };
        std::fs::write(&path, b"#V2\none\ntw\xFFo\nthree\n").expect("there is room");
        let mut reader = Reader::new(Some(path.clone())).expect("a reader");
        reader.remember("four");
        assert_eq!(kept(), ["one", "tw\u{FFFD}o", "three", "four"]);
        // Another program adds some while a chat is open.
        let mut file = OpenOptions::new().append(true).open(&path).expect("a file");
        file.write_all(b"fi\xC3ve\n").expect("there is room");
        reader.remember("six");
        assert_eq!(kept(), ["one", "tw\u{FFFD}o", "three", "four", "fi\u{FFFD}ve", "six"]);
    }

    #[test]
    fn commands_begin_with_a_slash() {
        let command = |word: &str, rest: &str| Entry::Command(word.into(), rest.into());
        assert_eq!(entry("/set temp  0.7 ".into()), command("set", "temp  0.7"));
        assert_eq!(entry("/help".into()), command("help", ""));
        assert_eq!(entry(" /help".into()), Entry::Message("/help".into()));
        assert_eq!(entry("a / b\n".into()), Entry::Message("a / b".into()));
    }
}
