//! `ingot generate`: a prompt in, text out, in the manner of `mlx_lm.generate`.

use crate::args::{AnswerArgs, DeviceArgs, Ids, ModelArgs, ids, max_tokens, unescape, variables};
use crate::{interrupt, output};
use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use ingot::ir::memory::counted;
use ingot::models::text::chat_template::ChatOptions;
use ingot::{Answer, FinishReason, Logprobs, Model, Piece};
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Flags of `ingot generate`.
#[derive(Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The user's message; `-` reads standard input. `\n` and `\t` stand for line ends and tabs
    #[arg(short, long, value_name = "TEXT", default_value = "hello", allow_hyphen_values = true)]
    prompt: String,
    /// The prompt as token ids, used as they are
    #[arg(long, value_name = "IDS", value_parser = ids, conflicts_with_all = ["prompt", "system_prompt", "ignore_chat_template", "use_default_chat_template", "chat_template_config"])]
    prompt_token_ids: Option<Ids>,
    /// A system message before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "ignore_chat_template")]
    system_prompt: Option<String>,
    /// Do not put the prompt into the model's chat template
    #[arg(long)]
    ignore_chat_template: bool,
    /// Put the prompt into ChatML if the model has no chat template
    #[arg(long, conflicts_with = "ignore_chat_template")]
    use_default_chat_template: bool,
    /// The beginning of the answer, which the model goes on with; it is no part of what is printed
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["ignore_chat_template", "prompt_token_ids"], allow_hyphen_values = true)]
    prefill_response: Option<String>,
    /// Variables of the chat template as a JSON object, e.g. {"enable_thinking": false}
    #[arg(long, value_name = "JSON", value_parser = variables, conflicts_with = "ignore_chat_template")]
    chat_template_config: Option<Map<String, Value>>,
    /// A file of `ingot cache-prompt`, whose text the prompt goes on from; its model is taken unless --model names one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt_token_ids", "system_prompt"])]
    prompt_cache_file: Option<PathBuf>,
    /// Most tokens of the answer; -1 for as many as the context holds
    #[arg(short, long, value_name = "N", default_value = "100", value_parser = max_tokens, allow_negative_numbers = true)]
    max_tokens: u32,
    #[command(flatten)]
    answer: AnswerArgs,
    /// Print each token's log-probability and those of the N best (needs --json)
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<u32>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print rulers, speeds and memory around the text; `--verbose false` prints the text alone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value = "true", default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new(), action = ArgAction::Set)]
    verbose: bool,
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// How the answer is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Verbose,
    Json,
}

/// Runs the command. `started` is when the process started.
pub(crate) fn run(args: &GenerateArgs, started: Instant) -> Result<()> {
    let form = match (args.json, args.verbose) {
        (true, _) => Form::Json,
        (false, true) => Form::Verbose,
        (false, false) => Form::Text,
    };
    // Standard input is read before the model is loaded, so that a broken pipe costs nothing.
    if args.prompt == "-" && args.answer.reads_stdin() {
        bail!("the prompt and the answer's form cannot both be on standard input; write one of them to a file");
    }
    let text = message(&args.prompt)?;
    let grammar = args.answer.form()?;
    let (folder, name) = args.model.folder_and_name(args.prompt_cache_file.as_deref())?;
    let mut model = args.device.load(&folder)?;
    if let Some(name) = name {
        model.set_origin(name);
    }
    if args.use_default_chat_template {
        model.use_default_chat_template();
    }
    let prompt = match &args.prompt_token_ids {
        Some(ids) => ids.0.clone(),
        None => match &args.prompt_cache_file {
            Some(file) => go_on(&mut model, args, file, &text)?,
            None => encode(&model, args, &text)?,
        },
    };
    let mut options = args.answer.options(&model, args.max_tokens)?;
    options.sampling.n_logprobs = args.logprobs;
    options.grammar = grammar;
    interrupt::install()?;
    let mut first_token = None;
    let mut is_shown = false;
    let mut written = Ok(());
    let answer = model.generate(&prompt, &options, |piece| {
        if piece.id.is_some() && first_token.is_none() {
            first_token = Some(started.elapsed());
        }
        written = show(piece, form, !std::mem::replace(&mut is_shown, true));
        written.is_ok() && !interrupt::pressed()
    })?;
    written?;
    match form {
        Form::Text => output::println(""),
        Form::Verbose => output::println(&format!("\n{RULER}\n{}", statistics(&answer, first_token))),
        Form::Json => {
            let folder = folder.display().to_string();
            let mut object = object(&answer, first_token);
            object["seed"] = json!(options.sampling.seed);
            object["device"] = json!(model.device());
            object["model"] = json!(folder);
            if args.logprobs.is_some() {
                object["logprobs"] = answer.logprobs.iter().map(logprobs).collect();
            }
            output::println(&object.to_string())
        }
    }
}

const RULER: &str = "==========";

/// The ruler comes with the first piece, so that a refused request prints nothing but its error.
fn show(piece: &Piece, form: Form, is_first: bool) -> Result<()> {
    match form {
        Form::Json => Ok(()),
        Form::Verbose if is_first => output::print(&format!("{RULER}\n{}", piece.text)),
        Form::Text | Form::Verbose if piece.text.is_empty() => Ok(()),
        Form::Text | Form::Verbose => output::print(&piece.text),
    }
}

/// The text of `--prompt`.
pub(super) fn message(prompt: &str) -> Result<String> {
    if prompt != "-" {
        return Ok(unescape(prompt));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("the prompt on standard input")?;
    // The end of a text's last line is no part of the message: `echo` adds it.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// A text that was read before, and the user's message as its end: what the template puts before a message is there.
fn go_on(model: &mut Model, args: &GenerateArgs, file: &Path, text: &str) -> Result<Vec<u32>> {
    const MARK: &str = "<query>";
    let mut prompt = model.load_prompt(file)?;
    let options = chat_options(model, args)?;
    let rendered = |content: &str| -> Result<Option<String>> {
        let messages = messages(args, content);
        Ok(if args.ignore_chat_template { None } else { model.language().messages_text(&messages, &options)? })
    };
    let rest = match (rendered(MARK)?, rendered(text)?) {
        (Some(marked), Some(whole)) => {
            let before = marked.find(MARK).context("the chat template leaves the message out")?;
            whole.get(before..).context("the chat template changes the message")?.to_owned()
        }
        _ => text.to_owned(),
    };
    prompt.extend(model.tokenizer()?.encode(&rest, false)?);
    Ok(prompt)
}

fn encode(model: &Model, args: &GenerateArgs, text: &str) -> Result<Vec<u32>> {
    if args.ignore_chat_template {
        return Ok(model.text_prompt(text)?);
    }
    Ok(model.messages_prompt(&messages(args, text), &chat_options(model, args)?)?)
}

/// The user's message with what the flags put around it.
fn messages(args: &GenerateArgs, text: &str) -> Value {
    let system = args.system_prompt.iter().map(|text| json!({ "role": "system", "content": text }));
    let user = json!({ "role": "user", "content": text });
    let begun = args.prefill_response.iter().map(|text| json!({ "role": "assistant", "content": unescape(text) }));
    Value::Array(system.chain([user]).chain(begun).collect())
}

/// How the messages are rendered.
fn chat_options(model: &Model, args: &GenerateArgs) -> Result<ChatOptions> {
    let continue_final_message = args.prefill_response.is_some();
    if continue_final_message && !model.has_chat_template() {
        bail!(
            "--prefill-response needs a chat template, and this model has none; --use-default-chat-template is ChatML"
        );
    }
    let extra = args.chat_template_config.clone().unwrap_or_default();
    Ok(ChatOptions { extra, continue_final_message, ..ChatOptions::default() })
}

/// The lines below the text, as mlx-lm writes them, with the time to the first token.
pub(super) fn statistics(answer: &Answer, from_start: Option<Duration>) -> String {
    let stats = &answer.stats;
    let mut lines = format!("Prompt: {} tokens, {:.3} tokens-per-sec\n", stats.n_prompt, stats.prompt_tps());
    if stats.n_cached > 0 {
        lines += &format!("Read of it: {}, the others were in the cache\n", counted(stats.n_read() as u64, "token"));
    }
    lines += &format!("Generation: {} tokens, {:.3} tokens-per-sec\n", stats.n_generated, stats.generation_tps());
    if let Some(from_start) = from_start {
        let (first, from_start) = (stats.first_token.as_secs_f64(), from_start.as_secs_f64());
        lines += &format!("Time to first token: {first:.3} s, {from_start:.3} s from process start\n");
    }
    lines += &format!("Peak memory: {:.3} GB", stats.memory.peak as f64 / 1e9);
    match answer.finish {
        FinishReason::Stop => lines,
        // Else a text that breaks off looks like the model's doing.
        FinishReason::Length => lines + "\nStopped at the limit: more with --max-tokens, --context or --max-kv-size",
        FinishReason::KvFull => {
            lines + "\nStopped: the cache has no room for more keys and values; raise --context, or pass --max-kv-size"
        }
        FinishReason::Cancelled => lines + "\nStopped by Ctrl-C",
    }
}

/// An answer with its figures, for programs.
pub(super) fn object(answer: &Answer, from_start: Option<Duration>) -> Value {
    let stats = &answer.stats;
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    json!({
        "text": answer.text,
        "token_ids": answer.ids,
        "finish_reason": answer.finish.to_string(),
        "prompt_tokens": stats.n_prompt,
        "cached_tokens": stats.n_cached,
        "generation_tokens": stats.n_generated,
        "prompt_tps": stats.prompt_tps(),
        "generation_tps": stats.generation_tps(),
        "time_to_first_token_s": seconds(from_start.map(|_| stats.first_token)),
        "time_to_first_token_from_start_s": seconds(from_start),
        "peak_memory_bytes": stats.memory.peak,
    })
}

/// One token's log-probabilities; `best` in falling order.
fn logprobs(of: &Logprobs) -> Value {
    let best: Vec<Value> = of.best.iter().map(|(id, logprob)| json!({ "id": id, "logprob": logprob })).collect();
    json!({ "logprob": of.chosen, "best": best })
}
