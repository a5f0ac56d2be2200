//! The `ptxsim` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ptxsim::{case, exec};

#[derive(Parser)]
#[command(name = "ptxsim", version, about = "Runs PTX on the CPU and checks it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(case::Arguments),
    Exec(exec::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => case::run(arguments),
        Command::Exec(arguments) => exec::run(&arguments),
    }
}
