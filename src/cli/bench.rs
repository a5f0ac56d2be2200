//! `vaebm bench`: how fast this machine is.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::pending::NotConnected;
use super::progress::ProgressKind;
use super::source::Source;
use crate::config::schema::Section;
use crate::config::{Config, Ebm, Run, Vae};

#[derive(Debug)]
pub(super) struct Benched;

impl Scope for Benched {
    const SECTIONS: &'static [Section] = &[Vae::SECTION, Ebm::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
    ];
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    /// One Langevin step of a batch of chains.
    Langevin,
    /// One training step of the VAE.
    Stage1,
}

/// Measure chain-steps/s of the Langevin step and steps/s of stage 1.
///
/// Examples:
///   vaebm bench toy
///   vaebm bench --config my.toml --batch 16 --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Images per step.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
    /// What to time; several are separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["langevin", "stage1"], value_name = "WHAT")]
    what: Vec<What>,
    /// Seconds to spend on each.
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    #[command(flatten)]
    flags: Overrides<Benched>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86400.0 => Ok(seconds),
        _ => Err("it must be a number above 0 and at most 86400".into()),
    }
}

/// What to measure, resolved.
#[expect(dead_code, reason = "read as soon as the measurement is connected")]
pub(super) struct Job {
    pub(super) config: Config,
    pub(super) batch: usize,
    pub(super) json: bool,
    pub(super) what: Vec<What>,
    pub(super) seconds: f64,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let config = args.source.resolve(&args.flags)?;
    if let Some(missing) = config.unsupported() {
        return Err(crate::config::ConfigError::Unsupported(missing).into());
    }
    let job = Job {
        config,
        batch: args.batch as usize,
        json: args.json,
        what: args.what,
        seconds: args.seconds,
    };
    measure(&job, Console::new(progress)?)
}

/// The seam to the measurement.
fn measure(_job: &Job, _console: Console) -> anyhow::Result<()> {
    Err(NotConnected("bench").into())
}
