//! The command line of `ptxsim run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Case, CaseError, CaseOptions, CaseReport};

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
    /// Run on the machine's first GPU instead of the simulator
    #[arg(long)]
    gpu: bool,
    /// With --gpu: run the simulator too, and say how far the outputs are apart
    #[arg(long, requires = "gpu")]
    compare: bool,
    /// Folder for output buffers and the report [default: that of the case file]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Runs the command: findings to stdout, the report and the output buffers to files.
pub fn run(arguments: Arguments) -> ExitCode {
    let options = CaseOptions {
        shuffle: arguments.shuffle,
        threads: arguments.threads,
        chip: arguments.chip,
        output: arguments.output,
        ..CaseOptions::default()
    };
    let case = Case::read(&arguments.case);
    let told = if arguments.gpu {
        case.and_then(|case| on_gpu(&case, &options, arguments.compare))
    } else {
        case.and_then(|case| case.run(&options))
            .map(|report| tell(&report))
    };
    told.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn on_gpu(case: &Case, options: &CaseOptions, compare: bool) -> Result<ExitCode, CaseError> {
    // cudarc panics where a driver lacks a function; that is no fault of this program, and is told as an error.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let run = std::panic::catch_unwind(|| case.run_on_gpu(options, compare));
    std::panic::set_hook(hook);
    let report = run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        let what = text.unwrap_or("it lacks a function");
        Err(CaseError::Invalid(format!(
            "the CUDA driver cannot be used: {what}"
        )))
    })?;
    println!(
        "{}: ran on {} ({})",
        report.kernel, report.device, report.driver
    );
    let Some(comparison) = &report.comparison else {
        return Ok(ExitCode::SUCCESS);
    };
    for difference in &comparison.differences {
        println!("{difference}");
    }
    Ok(tell(&comparison.simulator))
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
