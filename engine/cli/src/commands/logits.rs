//! `ingot logits`: what a model says of every token of a prompt, for checking from outside.

use crate::args::{DeviceArgs, Ids, ModelArgs, ids};
use crate::output;
use anyhow::{Context, Result};
use clap::Args;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Flags of `ingot logits`.
#[derive(Args)]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt as token ids, e.g. 1,2,3
    #[arg(long, value_name = "IDS", value_parser = ids)]
    token_ids: Ids,
    /// File to write: safetensors with the f32 tensor `logits` [tokens, vocabulary]
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
pub(crate) fn run(args: &LogitsArgs) -> Result<()> {
    output::check_place(&args.output)?;
    let mut model = args.device.load(&args.model.folder()?)?;
    let (logits, n_vocab) = model.logits(&args.token_ids.0)?;
    let n_tokens = args.token_ids.0.len();
    assert_eq!(logits.len(), n_tokens * n_vocab, "one row of logits a token");
    write(&args.output, &logits, [n_tokens, n_vocab])?;
    if args.json {
        let object = json!({ "file": args.output.display().to_string(), "tokens": n_tokens, "vocabulary": n_vocab });
        return output::println(&object.to_string());
    }
    output::println(&format!("logits [{n_tokens}, {n_vocab}] written to {}", args.output.display()))
}

/// Writes beside the file, then renames: a reader never sees half of it, and a failure leaves what was there.
fn write(path: &Path, logits: &[f32], shape: [usize; 2]) -> Result<()> {
    let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).context("the tensor `logits`")?;
    let mut name = path.file_name().with_context(|| format!("{}: not the name of a file", path.display()))?.to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = serialize_to_file([("logits", view)], None, &part)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(std::fs::rename(&part, path)?));
    if written.is_err() {
        // It may not exist; the error that is told is the one of writing.
        let _ = std::fs::remove_file(&part);
    }
    written.with_context(|| format!("{} cannot be written", path.display()))
}
