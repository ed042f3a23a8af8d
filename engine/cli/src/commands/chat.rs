//! `ingot chat`: a conversation, line by line; lines that begin with `/` are commands.

mod input;
mod session;

use crate::args::{AnswerArgs, DeviceArgs, ModelArgs, max_tokens, variables};
use crate::commands::generate::{object, statistics};
use crate::{interrupt, output};
use anyhow::{Context, Result, anyhow, bail};
use clap::{ArgAction, Args, Command, FromArgMatches};
use ingot::ir::memory::counted;
use ingot::models::text::chat_template::ChatOptions;
use ingot::{Answer, Conversation, FinishReason, GenerateOptions, Model, Place, Stats};
use input::{Entry, Reader};
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Flags of `ingot chat`.
#[derive(Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A system message before the conversation
    #[arg(long, value_name = "TEXT")]
    system_prompt: Option<String>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print each answer as one JSON object with its figures, /stats as well, and nothing else
    #[arg(long)]
    json: bool,
}

/// What `/set` changes.
#[derive(Args)]
struct Settings {
    /// Most tokens of an answer; -1 for as many as the context holds
    #[arg(short, long, value_name = "N", default_value = "256", value_parser = max_tokens, allow_negative_numbers = true)]
    max_tokens: u32,
    #[command(flatten)]
    answer: AnswerArgs,
    /// Variables of the chat template as a JSON object, e.g. {"enable_thinking": false}
    #[arg(long, value_name = "JSON", value_parser = variables)]
    chat_template_config: Option<Map<String, Value>>,
    /// Print a line of figures below each answer; `--verbose false` prints the text alone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value = "true", default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new(), action = ArgAction::Set)]
    verbose: bool,
}

const HELP: &str = r#"/set NAME VALUE   change a setting: a flag of `ingot chat --help` without its dashes, e.g. /set temp 0.7
/set NAME         take that back: the setting is as it was at the start
/system [TEXT]    set the system message; without a text, remove it
/reset            forget the conversation, keep settings and system message
/save FILE        write the conversation to a file
/load FILE        go on with the conversation of a file
/stats            tokens and speeds of the last answer
/help             this list
/quit             end (or Ctrl-D)
Ctrl-C stops an answer. A line that ends in \ goes on in the next one; """ begins and ends a text of several lines.
A message that begins with / needs a space before it."#;

/// The seed of the first answer, as in mlx-lm, if none was given.
const DEFAULT_SEED: u64 = 0;

/// A conversation and all that it needs.
struct Chat {
    model: Model,
    talk: Conversation,
    settings: Settings,
    /// The command line.
    flags: Vec<OsString>,
    /// Every `/set` that holds, by name, as it would be said on the command line.
    said: Vec<(String, OsString)>,
    last: Option<Answer>,
    /// Answers since the seed was set: each is drawn with the next one.
    n_drawn: u64,
    json: bool,
}

/// Runs the command. `flags` are the command line after the subcommand.
pub(crate) fn run(args: ChatArgs, flags: Vec<OsString>) -> Result<()> {
    let model = args.device.load(&args.model.folder()?)?;
    // A tokenizer that is missing is told before the first message, and so is a setting that the model cannot keep.
    model.tokenizer()?;
    args.settings.check(&model)?;
    interrupt::install()?;
    let talk = args.system_prompt.map_or_else(Conversation::default, Conversation::with_system);
    let (settings, json) = (args.settings, args.json);
    let mut chat = Chat { model, talk, settings, flags, said: Vec::new(), last: None, n_drawn: 0, json };
    if !json {
        output::println(&format!("Chat on {}. /help lists commands, Ctrl-D ends.", chat.model.device()))?;
    }
    if !chat.model.has_chat_template() {
        chat.note("This model has no chat template: it continues each message as a text of its own.")?;
    }
    // What comes through a pipe was not typed.
    let is_typed = std::io::stdin().is_terminal() && !args.device.no_cache;
    let mut reader = match std::io::stdout().is_terminal() {
        true => Reader::new(if is_typed { history() } else { None })?,
        false => Reader::plain(),
    };
    loop {
        // What was pressed between answers stops none.
        interrupt::clear();
        let result = match reader.next()? {
            Entry::End => return Ok(()),
            Entry::Command(word, _) if matches!(word.as_str(), "quit" | "exit" | "bye") => return Ok(()),
            Entry::Command(word, rest) => chat.command(&word, &rest),
            Entry::Message(text) => chat.say(text),
        };
        match result {
            Err(error) if output::is_broken_pipe(&error) => return Err(error),
            // A conversation outlives a misspelt command and a message that does not fit.
            Err(error) => output::report(&error),
            Ok(()) => {}
        }
    }
}

impl Settings {
    fn options(&self, model: &Model) -> Result<GenerateOptions> {
        if self.answer.reads_stdin() {
            bail!("a chat's messages are on standard input; write the answer's form to a file");
        }
        Ok(GenerateOptions { grammar: self.answer.form()?, ..self.answer.options(model, self.max_tokens)? })
    }

    /// Fails where the model cannot keep them: an end token that it does not know, a form that is none.
    fn check(&self, model: &Model) -> Result<()> {
        let options = self.options(model)?;
        options.grammar.map(|grammar| model.form(&grammar)).transpose()?;
        Ok(())
    }

    /// The settings of a command line in which every flag may be said again.
    fn parse(flags: &[OsString]) -> Result<Self, clap::Error> {
        let command = Command::new("chat").no_binary_name(true).args_override_self(true);
        let mut matches = ChatArgs::augment_args(command).try_get_matches_from(flags)?;
        Ok(ChatArgs::from_arg_matches_mut(&mut matches)?.settings)
    }

    /// Whether a setting of that name takes a value; `None` if there is none.
    fn takes_value(name: &str) -> Option<bool> {
        let all = Self::augment_args(Command::new("set"));
        let setting = all.get_arguments().find(|arg| arg.get_long() == Some(name))?;
        Some(setting.get_action().takes_values())
    }
}

impl Chat {
    fn command(&mut self, word: &str, rest: &str) -> Result<()> {
        match word {
            "help" => self.note(HELP),
            "set" => self.set(rest),
            "system" => {
                self.talk.system = Some(rest.to_owned()).filter(|text| !text.is_empty());
                Ok(())
            }
            "reset" => {
                self.talk.messages.clear();
                self.last = None;
                Ok(())
            }
            "save" => session::save(&self.talk, file(rest)?),
            "load" => {
                self.talk = session::load(file(rest)?)?;
                self.note(&counted(self.talk.messages.len() as u64, "message"))
            }
            "stats" => match &self.last {
                Some(answer) if self.json => output::println(&object(answer, None).to_string()),
                Some(answer) => output::println(&statistics(answer, None)),
                None => self.note("no answer yet"),
            },
            _ => bail!("unknown command /{word}; /help lists commands"),
        }
    }

    fn set(&mut self, rest: &str) -> Result<()> {
        let (name, value) =
            rest.split_once(char::is_whitespace).map_or((rest, ""), |(name, value)| (name, value.trim()));
        let Some(takes_value) = Settings::takes_value(name) else {
            bail!(
                "`{name}` is no setting; write /set NAME VALUE with a name of `ingot chat --help`, e.g. /set temp 0.7"
            );
        };
        let mut said = self.said.clone();
        match value {
            "" if takes_value => said.retain(|(other, _)| other != name),
            "" => said.push((name.to_owned(), format!("--{name}").into())),
            value => said.push((name.to_owned(), format!("--{name}={value}").into())),
        }
        let all: Vec<OsString> = self.flags.iter().chain(said.iter().map(|(_, flag)| flag)).cloned().collect();
        let settings = Settings::parse(&all).map_err(|error| {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            anyhow!("{first}")
        })?;
        settings.check(&self.model)?;
        (self.settings, self.said) = (settings, said);
        if name == "seed" {
            self.n_drawn = 0;
        }
        Ok(())
    }

    /// A message and its answer. If there is none, the conversation is as before.
    fn say(&mut self, text: String) -> Result<()> {
        let before = self.talk.clone();
        self.talk.push("user", text);
        let answer = self.answer();
        match answer {
            // Ended while the message was being read.
            Ok(answer) if answer.ids.is_empty() && answer.finish == FinishReason::Cancelled => {
                self.talk = before;
                Ok(())
            }
            Ok(answer) => {
                self.n_drawn += 1;
                self.talk.answered(self.model.language(), &answer);
                self.last = Some(answer);
                Ok(())
            }
            Err(error) => {
                self.talk = before;
                Err(error)
            }
        }
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut options = self.settings.options(&self.model)?;
        options.sampling.seed = self.settings.answer.seed().unwrap_or(DEFAULT_SEED).wrapping_add(self.n_drawn);
        let prompt = self.prompt(options.max_tokens)?;
        let mut written = Ok(());
        let answer = self.model.generate(&prompt, &options, |piece| {
            if !self.json {
                written = output::print(&piece.text);
            }
            written.is_ok() && !interrupt::pressed()
        })?;
        written?;
        if self.json {
            output::println(&object(&answer, None).to_string())?;
        } else {
            output::println("")?;
        }
        if self.settings.verbose && !self.json {
            self.note(&figures(&answer.stats))?;
        }
        Ok(answer)
    }

    /// Prints what is no answer; where programs read the answers, beside them.
    fn note(&self, text: &str) -> Result<()> {
        if self.json {
            return writeln!(std::io::stderr(), "{text}").context("standard error");
        }
        output::println(text)
    }

    /// The conversation as token ids. What does not fit the context beside an answer is forgotten, the oldest first.
    fn prompt(&mut self, max_tokens: u32) -> Result<Vec<u32>> {
        let context = self.model.facts().max_context;
        let room = self.model.room_beside(max_tokens);
        let extra = self.settings.chat_template_config.clone().unwrap_or_default();
        let options = ChatOptions { extra, ..ChatOptions::default() };
        let (prompt, n_forgotten) = self.talk.prompt(self.model.language(), room, &options)?;
        if n_forgotten > 0 {
            let (n_forgotten, are) = match n_forgotten {
                1 => ("exchange".to_owned(), "is"),
                n => (format!("{n} exchanges"), "are"),
            };
            self.note(&format!("[the context holds {context} tokens: the oldest {n_forgotten} {are} forgotten]"))?;
        }
        Ok(prompt)
    }
}

/// The file of what was typed in earlier chats.
fn history() -> Option<PathBuf> {
    Some(Place::State.folder()?.join("chat_history"))
}

/// The line below an answer.
fn figures(stats: &Stats) -> String {
    let (read, generated) = (counted(stats.n_read() as u64, "token"), counted(stats.n_generated as u64, "token"));
    format!(
        "[{read} read, {:.1} a second; {generated} generated, {:.1} a second; peak memory {:.3} GB]",
        stats.prompt_tps(),
        stats.generation_tps(),
        stats.memory.peak as f64 / 1e9
    )
}

fn file(rest: &str) -> Result<&Path> {
    Some(rest).filter(|rest| !rest.is_empty()).map(Path::new).context("name a file, e.g. /save talk.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Settings, clap::Error> {
        Settings::parse(&flags.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_setting_is_a_flag_said_again() {
        let settings = parse(&["--temp", "0.5", "--max-tokens", "7", "--max-tokens=9", "--model", "x"]).expect("right");
        assert_eq!(settings.max_tokens, 9);
        assert!(parse(&["--temp=hot"]).is_err());
        for name in ["temp", "max-tokens", "stop", "repetition-penalty", "chat-template-config", "seed"] {
            assert_eq!(Settings::takes_value(name), Some(true), "{name}");
        }
        assert_eq!(Settings::takes_value("ignore-eos"), Some(false));
        for name in ["model", "device", "", "threads"] {
            assert_eq!(Settings::takes_value(name), None, "{name}");
        }
    }
}
