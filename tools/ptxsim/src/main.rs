//! The `ptxsim` command.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ptxsim::{Case, CaseOptions, exec};

#[derive(Parser)]
#[command(name = "ptxsim", version, about = "Runs PTX on the CPU and checks it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one kernel on buffers described in a TOML file
    ///
    /// Exit status: 0 clean, 1 findings, 2 cannot run (to its end). The file format is described in docs/ptxsim.md.
    Run(Run),
    Exec(exec::Arguments),
}

#[derive(Args)]
struct Run {
    /// The case file
    case: PathBuf,
    /// Shuffle the order of warps and blocks with this seed
    #[arg(long)]
    shuffle: Option<u64>,
    /// Host threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// Chip to pose as: H200, A100 or "RTX 4090"
    #[arg(long)]
    chip: Option<String>,
    /// Folder for output buffers and the report [default: that of the case file]
    #[arg(long)]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run(arguments),
        Command::Exec(arguments) => exec::run(&arguments),
    }
}

fn run(arguments: Run) -> ExitCode {
    let Run {
        case,
        shuffle,
        threads,
        chip,
        output,
    } = arguments;
    let options = CaseOptions {
        shuffle,
        threads,
        chip,
        output,
    };
    let report = match Case::read(&case).and_then(|case| case.run(&options)) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    for finding in &report.findings {
        println!("{finding}");
    }
    if let Some(message) = &report.stopped {
        eprintln!("error: stopped: {message}");
    }
    match report.findings.len() {
        0 if report.stopped.is_some() => ExitCode::from(2),
        0 => {
            println!(
                "{}: clean, {} warp instructions",
                report.kernel, report.counters.warp_instructions
            );
            ExitCode::SUCCESS
        }
        n => {
            println!(
                "{}: {n} finding{}",
                report.kernel,
                if n == 1 { "" } else { "s" }
            );
            ExitCode::from(1)
        }
    }
}
