//! The command line: every subcommand parses, resolves a configuration, calls the library and prints.
//!
//! Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage
//! (flags, configuration), 130 interrupted twice.

mod ablate;
mod bench;
mod chains;
mod config;
mod console;
mod demo;
mod doctor;
mod eval;
mod export;
mod faithful;
mod import;
mod likelihood;
mod ood;
mod overrides;
mod parity;
mod profile;
mod progress;
mod report;
mod sample;
mod source;
mod train;
mod train_ebm;
mod train_vae;
mod tune;

pub use progress::{ProgressKind, reporter};

use crate::config::ConfigError;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Train and sample VAEBMs: a hierarchical VAE times an energy network on images.
#[derive(Debug, Parser)]
#[command(
    name = "vaebm",
    version,
    propagate_version = true,
    max_term_width = 110
)]
#[command(
    after_help = "Start with `vaebm demo`: in minutes it trains both stages on built-in images and shows what \
                        came of it."
)]
struct Cli {
    /// How to tell what is going on, on standard error.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "KIND")]
    progress: ProgressKind,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Train(train::Args),
    Sample(sample::Args),
    Eval(eval::Args),
    Likelihood(likelihood::Args),
    Ood(ood::Args),
    Chains(chains::Args),
    Ablate(ablate::Args),
    Report(report::Args),
    Bench(bench::Args),
    Profile(profile::Args),
    Faithful(faithful::Args),
    Tune(tune::Args),
    Import(import::Args),
    Export(export::Args),
    Doctor(doctor::Args),
    Config(config::Args),
    Parity(parity::Args),
}

/// The command line, for documentation and for checking examples against it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Reads the command line, does what it says, and tells the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap as well; it knows which stream and code belong to them.
            let code = if error.use_stderr() { 2 } else { 0 };
            // With the output closed there is nobody left to tell.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let usage = matches!(
                error.downcast_ref::<ConfigError>(),
                Some(
                    ConfigError::Read { .. }
                        | ConfigError::Syntax { .. }
                        | ConfigError::UnknownKey { .. }
                        | ConfigError::WrongKind { .. }
                        | ConfigError::Preset { .. }
                        | ConfigError::Missing(_)
                        | ConfigError::Invalid(_)
                )
            );
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let progress = cli.progress;
    match cli.command {
        Command::Demo(args) => demo::run(args, progress),
        Command::Train(args) => train::run(args, progress),
        Command::Sample(args) => sample::run(args, progress),
        Command::Eval(args) => eval::run(args, progress),
        Command::Likelihood(args) => likelihood::run(args, progress),
        Command::Ood(args) => ood::run(args, progress),
        Command::Chains(args) => chains::run(args, progress),
        Command::Ablate(args) => ablate::run(args, progress),
        Command::Report(args) => report::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Faithful(args) => faithful::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Config(args) => config::run(args),
        Command::Parity(args) => parity::run(args),
    }
}

/// Prints a line of results. A reader that went away (`| head`) is an error like any other, not a panic.
fn say(line: impl std::fmt::Display) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

#[cfg(test)]
mod resolve_tests;
