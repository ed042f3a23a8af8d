//! `ingot cache`: what is kept between runs.

use crate::output;
use anyhow::Result;
use clap::{Args, Subcommand};
use ingot::{Bytes, Cache};

/// Flags of `ingot cache`.
#[derive(Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the files with their sizes
    List,
    /// Remove the files; nothing is lost that is not made again
    Clear,
}

/// Runs the command.
pub(crate) fn run(args: &CacheArgs) -> Result<()> {
    let cache = Cache::User;
    let Some(folder) = cache.folder() else {
        return output::println("no cache folder: neither INGOT_HOME nor HOME is set");
    };
    match args.action {
        Action::List => {
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
            output::println(&format!("{} files, {} in {}", entries.len(), Bytes(total), folder.display()))
        }
        Action::Clear => output::println(&format!("{} removed from {}", Bytes(cache.clear()?), folder.display())),
    }
}
