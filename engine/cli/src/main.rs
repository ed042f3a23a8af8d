//! The `ingot` command: generate text, compile models, look at devices and plans, measure, tune.
//!
//! Each subcommand has one file under `commands/`; flags that several share are in [`args`].
//! Exit codes: 0 done, 1 failed, 2 misused (seen from the command line alone), 130 stopped by a second Ctrl-C.

mod args;
mod commands;
mod fetch;
mod interrupt;
mod output;
mod progress;
mod shipped;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;
use std::time::Instant;

/// Runs language models on the GPU in front of you, or on the processor.
#[derive(Parser)]
#[command(name = "ingot", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate text from a prompt
    Generate(commands::generate::GenerateArgs),
    /// Read a prompt once, for `ingot generate --prompt-cache-file` to go on from
    CachePrompt(commands::cache_prompt::CachePromptArgs),
    /// Talk with a model
    Chat(commands::chat::ChatArgs),
    /// Write the logits of a prompt's tokens to a safetensors file
    Logits(commands::logits::LogitsArgs),
    /// List what can run a model
    Devices(commands::devices::DevicesArgs),
    /// Print what the compiler makes of a model
    Explain(commands::explain::ExplainArgs),
    /// Compile a model ahead of time into one file that loads with nothing left to decide
    Compile(commands::compile::CompileArgs),
    /// Print what a compiled file holds
    Inspect(commands::inspect::InspectArgs),
    /// List, show or remove the models in the hub's cache
    Models(commands::models::ModelsArgs),
    /// List or clear what is kept between runs: compiled plans and the driver's pipelines
    Cache(commands::cache::CacheArgs),
    /// Measure the tiles of each kernel shape on this device, and keep the best for later compilations
    Tune(commands::tune::TuneArgs),
    /// Tell what each device can do, and check that one computes what it should
    Doctor(commands::doctor::DoctorArgs),
    /// Time every kernel of a step
    Profile(commands::profile::ProfileArgs),
    /// Write a checkpoint in MLX's layout: cast, quantized or dequantized
    Convert(commands::convert::ConvertArgs),
    /// Quantize matrix by matrix, with as many bits for each as serves the model best
    Quantize(commands::quantize::QuantizeArgs),
    /// Measure how well a model predicts a text
    Perplexity(commands::perplexity::PerplexityArgs),
    /// Measure how far the predictions of two models of one vocabulary are apart
    Compare(commands::compare::CompareArgs),
    /// Measure prefill and decode speed
    Bench(commands::bench::BenchArgs),
    /// Print a shell's completions of this program
    Completions(commands::completions::CompletionsArgs),
    /// Print manual pages of this program, or write them all
    Man(commands::completions::ManArgs),
}

fn main() -> ExitCode {
    let started = Instant::now();
    let result = match Cli::parse().command {
        Command::Generate(args) => commands::generate::run(&args, started),
        Command::CachePrompt(args) => commands::cache_prompt::run(&args),
        // The program's name and the subcommand come first; no flag may stand between them.
        Command::Chat(args) => commands::chat::run(args, std::env::args_os().skip(2).collect()),
        Command::Logits(args) => commands::logits::run(&args),
        Command::Devices(args) => commands::devices::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Compile(args) => commands::compile::run(&args, started),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Models(args) => commands::models::run(&args),
        Command::Cache(args) => commands::cache::run(&args),
        Command::Tune(args) => commands::tune::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Profile(args) => commands::profile::run(&args),
        Command::Convert(args) => commands::convert::run(&args, started),
        Command::Quantize(args) => commands::quantize::run(&args, started),
        Command::Perplexity(args) => commands::perplexity::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Completions(args) => commands::completions::completions(&args, Cli::command()),
        Command::Man(args) => commands::completions::man(&args, Cli::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(misuse) = error.downcast_ref::<clap::Error>() {
                let _ = misuse.print();
                return ExitCode::from(2);
            }
            output::report(&error);
            ExitCode::FAILURE
        }
    }
}
