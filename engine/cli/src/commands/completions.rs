//! `ingot completions` and `ingot man`: what shells and `man` know of the program, made from its own flags.

use crate::output;
use anyhow::{Context, Result, bail};
use clap::{Args, Command};
use clap_complete::Shell;
use std::path::PathBuf;

/// Flags of `ingot completions`.
#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell; e.g. `ingot completions bash > ~/.local/share/bash-completion/completions/ingot`
    shell: Shell,
}

/// Flags of `ingot man`.
#[derive(Args)]
pub(crate) struct ManArgs {
    /// The subcommand whose page is printed [default: the program's own page]
    #[arg(conflicts_with = "output")]
    command: Vec<String>,
    /// Write the pages of the program and of all subcommands to this folder instead, e.g. ~/.local/share/man/man1
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints a shell's completions.
pub(crate) fn completions(args: &CompletionsArgs, mut program: Command) -> Result<()> {
    let mut script = Vec::new();
    let name = program.get_name().to_owned();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    output::print(&String::from_utf8(script).context("the script")?)
}

/// Prints a page, or writes all.
pub(crate) fn man(args: &ManArgs, mut program: Command) -> Result<()> {
    // Usage lines and names of pages are those of the whole command.
    program.build();
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        clap_mangen::generate_to(program, folder).with_context(|| format!("{}", folder.display()))?;
        return output::println(&format!("pages written to {}", folder.display()));
    }
    let mut command = program;
    for word in &args.command {
        let Some(found) = command.find_subcommand(word) else {
            bail!("`{word}` is no subcommand of `{}`", command.get_display_name().unwrap_or(command.get_name()));
        };
        command = found.clone();
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).context("the page")?;
    output::print(&String::from_utf8(page).context("the page")?)
}
