//! `ingot cache-prompt`: a prompt is read once, for `ingot generate --prompt-cache-file` to go on from.

use super::generate::message;
use crate::args::{DeviceArgs, ModelArgs};
use crate::output;
use anyhow::{Result, bail};
use clap::Args;
use ingot::ir::memory::counted;
use ingot::{Bytes, ChatOptions, Model};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Flags of `ingot cache-prompt`.
#[derive(Args)]
pub(crate) struct CachePromptArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The beginning of the user's message; `-` reads standard input. `\n` and `\t` stand for line ends and tabs
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// The file to write; it appears once it is whole
    #[arg(long, value_name = "FILE")]
    prompt_cache_file: PathBuf,
    /// Do not put the prompt into the model's chat template
    #[arg(long)]
    ignore_chat_template: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &CachePromptArgs) -> Result<()> {
    let text = message(&args.prompt)?;
    let mut model = args.device.load(&args.model.folder()?)?;
    if let Some(name) = args.model.name() {
        model.set_origin(name);
    }
    let prompt = beginning(&model, &text, args.ignore_chat_template)?;
    let started = Instant::now();
    model.save_prompt(&prompt, &args.prompt_cache_file)?;
    let n_bytes = std::fs::metadata(&args.prompt_cache_file)?.len();
    let (file, seconds) = (args.prompt_cache_file.display().to_string(), started.elapsed().as_secs_f64());
    if args.json {
        let model = model.origin().map(|origin| origin.display().to_string());
        let object = json!({
            "file": file, "model": model, "prompt_tokens": prompt.len(), "file_bytes": n_bytes, "seconds": seconds,
        });
        return output::println(&object.to_string());
    }
    let tokens = counted(prompt.len() as u64, "token");
    output::println(&format!("{file}: {tokens}, {}, read and written in {seconds:.1} s", Bytes(n_bytes)))
}

/// Ids of a message that is not over: the template's text up to the message's end.
fn beginning(model: &Model, text: &str, plain: bool) -> Result<Vec<u32>> {
    if text.trim().is_empty() {
        bail!("--prompt is empty; there is nothing to read");
    }
    let options = ChatOptions { continue_final_message: true, ..ChatOptions::default() };
    let messages = json!([{ "role": "user", "content": text }]);
    let rendered = if plain { None } else { model.language().messages_text(&messages, &options)? };
    let Some(rendered) = rendered else { return Ok(model.text_prompt(text)?) };
    Ok(model.tokenizer()?.encode(&rendered, false)?)
}
