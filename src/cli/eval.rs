//! `vaebm eval`: how good a run's samples are.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::{Source, config_in};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Config, Data, Run, Sample, Stage};
use crate::demo;
use crate::eval::report::Seconds;
use crate::run::RunFolder;
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct Measured;

impl Scope for Measured {
    const SECTIONS: &'static [Section] = &[Sample::SECTION, Data::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
        ("sample", "batch_size"),
        ("sample", "energies"),
        ("sample", "trajectory"),
    ];
}

/// Measure a run's samples against its VAE's and against held-out data.
///
/// Trains a small classifier on the run's images, draws as many samples of the VAE and of the VAEBM from the same noise,
/// and writes samples.png, report.txt and report.json into the run folder: modes covered, KL to the data's law over
/// modes, confidence of the classifier, Frechet distance of its features.
///
/// Examples:
///   vaebm eval runs/mnist
///   vaebm eval runs/mnist --n 10000 --num-steps 40
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folder with both stages.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// TOML file laid over the run's own configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Overrides<Measured>,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&RunFolder::checkpoint_at(&args.run, Stage::Ebm)?)?;
    let mut kept = config_in(&checkpoint)?;
    // Figures need more images than a look does; a flag still has the last word.
    kept.sample.num_samples = demo::SAMPLES;
    let mut config = Source::file(args.config).resolve_over(&kept, &args.flags)?;
    config.run.out = args.run;
    measure(&config, Console::new(progress)?)
}

fn measure(config: &Config, mut with: Console) -> anyhow::Result<()> {
    let mut device = config.run.open_device()?;
    let samples = config.sample.num_samples;
    let nothing_before = Seconds::default();
    let outcome = demo::measure(
        config,
        &mut *device,
        samples,
        nothing_before,
        &mut *with.progress,
        &with.stop,
    )?;
    match outcome {
        Some(outcome) => super::demo::tell(&outcome),
        None => super::say("stopped; nothing was written"),
    }
}
