//! `vaebm report`: a run folder as a page.

use std::path::PathBuf;

use crate::report;

/// Write a run's report: one HTML page with curves, pictures, events, configuration and machine.
///
/// The page needs no network and no other file. It can be made while the run goes on, and of a run that was cut off.
///
/// Examples:
///   vaebm report runs/mnist
///   vaebm report runs/mnist --out mnist.html
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folder.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// File to write (default: report.html in the run folder).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let out = args.out.unwrap_or_else(|| args.run.join("report.html"));
    report::write(&args.run, &out)?;
    super::say(format_args!("report: {}", out.display()))
}
