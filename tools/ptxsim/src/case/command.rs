//! The command line of `ptxsim run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Case, CaseOptions, CaseReport};

/// Run one kernel on buffers described in a TOML file
///
/// Exit status: 0 clean, 1 findings, 2 cannot run (to its end). The file format is described in docs/ptxsim.md.
#[derive(Debug, Args)]
pub struct Arguments {
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

/// Runs the command: findings to stdout, the report and the output buffers to files.
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments {
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
    match Case::read(&case).and_then(|case| case.run(&options)) {
        Ok(report) => tell(&report),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn tell(report: &CaseReport) -> ExitCode {
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
