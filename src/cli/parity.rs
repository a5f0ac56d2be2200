//! `vaebm parity`: agreement with the numbers of the official implementation.

use std::io::Write;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::device::{self, DeviceChoice};
use crate::parity::{Arithmetic, Options, run as compare, table};
use crate::program::gpu;

/// What to compute in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    /// The device's kernels, within the tolerances that the files state.
    #[default]
    F32,
    /// The plain references on the host, within the rounding of the files; --device does not matter.
    F64,
}

/// Compare every quantity with the stored numbers of the official implementation.
///
/// DIR holds cases as docs/parity.md describes them. Prints a table and fails if anything misses.
///
/// Examples:
///   vaebm parity ../shared/parity
///   vaebm parity ../shared/parity --precision f64 --only A/stage1
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Folder of cases.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// What to compute in.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Run only tests whose name contains this, such as A/stage1_eval.
    #[arg(long, value_name = "TEST")]
    only: Option<String>,
    /// A line for each quantity rather than for each group of alike ones.
    #[arg(long)]
    verbose: bool,
}

/// Quantities that miss.
#[derive(Debug, thiserror::Error)]
#[error("{missed} of {compared} quantities miss")]
struct Missed {
    missed: usize,
    compared: usize,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let choice = DeviceChoice::named(&args.device).ok_or_else(|| {
        let problem = format!("--device {}: it is auto, cpu, cuda or cuda:N", args.device);
        ConfigError::Invalid(vec![problem])
    })?;
    let options = Options {
        arithmetic: match args.precision {
            Precision::F32 => Arithmetic::Single,
            Precision::F64 => Arithmetic::Double,
        },
        device: &|| device::open(choice, 0, gpu::Precision::F32),
        only: args.only,
    };
    let mut out = std::io::stdout();
    writeln!(out, "{}", table::header())?;
    let mut written = Ok(());
    let summary = compare(&args.dir, &options, &mut |_, rows, _| {
        if written.is_ok() {
            written = write!(out, "{}", table::lines(rows, args.verbose));
        }
    })?;
    written?;
    let (compared, missed) = (summary.compared, summary.failures.len());
    if summary.tests == 0 {
        anyhow::bail!("no test of {} has such a name", args.dir.display());
    }
    if !summary.passed() {
        return Err(Missed { missed, compared }.into());
    }
    writeln!(out, "{compared} quantities of {} tests pass", summary.tests)?;
    Ok(())
}
