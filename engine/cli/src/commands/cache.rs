//! `ingot cache`: what is kept between runs.

use crate::output;
use anyhow::Result;
use clap::{Args, Subcommand};
use ingot::ir::memory::counted;
use ingot::{Bytes, Cache, CacheEntry};
use serde_json::{Value, json};

/// Flags of `ingot cache`.
#[derive(Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the files with their sizes
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove the files; nothing is lost that is not made again
    Clear {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(crate) fn run(args: &CacheArgs) -> Result<()> {
    let cache = Cache::User;
    let Some(folder) = cache.folder() else {
        return match args.action {
            Action::List { json: true } => output::println(&json!({ "folder": null, "files": [] }).to_string()),
            Action::Clear { json: true } => output::println(&json!({ "folder": null, "freed_bytes": 0 }).to_string()),
            _ => output::println("no cache folder: neither INGOT_HOME nor HOME is set"),
        };
    };
    match args.action {
        Action::List { json: true } => {
            let entry = |entry: &CacheEntry| json!({ "file": entry.path.display().to_string(), "bytes": entry.n_bytes, "what": entry.what });
            let entries: Vec<Value> = cache.entries()?.iter().map(entry).collect();
            output::println(&json!({ "folder": folder.display().to_string(), "files": entries }).to_string())
        }
        Action::List { json: false } => {
            let entries = cache.entries()?;
            for entry in &entries {
                let name = entry.path.strip_prefix(&folder).unwrap_or(&entry.path);
                output::println(&format!(
                    "{:>10}  {}  {}",
                    Bytes(entry.n_bytes).to_string(),
                    name.display(),
                    entry.what
                ))?;
            }
            let total = entries.iter().map(|entry| entry.n_bytes).sum();
            output::println(&format!(
                "{}, {} in {}",
                counted(entries.len() as u64, "file"),
                Bytes(total),
                folder.display()
            ))
        }
        Action::Clear { json: true } => {
            let freed = cache.clear()?;
            output::println(&json!({ "folder": folder.display().to_string(), "freed_bytes": freed }).to_string())
        }
        Action::Clear { json: false } => {
            output::println(&format!("{} removed from {}", Bytes(cache.clear()?), folder.display()))
        }
    }
}
