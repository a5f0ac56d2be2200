//! The `ptxsim` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ptxsim::exec;

#[derive(Parser)]
#[command(name = "ptxsim", version, about = "Runs PTX on the CPU and checks it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Exec(exec::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Exec(arguments) => exec::run(&arguments),
    }
}
