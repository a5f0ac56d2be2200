//! `vaebm eval`: how good a run's samples are.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::{Source, config_in};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Config, ConfigError, Data, Run, Sample, Stage};
use crate::demo;
use crate::eval::compare::{Gauge, Subject, enough};
use crate::eval::interval::summary;
use crate::eval::report::Seconds;
use crate::run::{RunFolder, Which};
use std::path::PathBuf;

const STOPPED: &str = "stopped; nothing more was written";

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
/// modes, confidence of the classifier, and by its features the Frechet and kernel distance, precision, recall, density and
/// coverage, and how near samples are to training images.
/// Several runs on the same images, such as those of several seeds, are measured by the same classifier; their means and
/// the 95% intervals of what the energy network changed come last.
///
/// Examples:
///   vaebm eval runs/mnist
///   vaebm eval runs/mnist --n 10000 --num-steps 40
///   vaebm eval runs/mnist --neighbours
///   vaebm eval runs/mnist-1 runs/mnist-2 runs/mnist-3
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folders with both stages.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Also write neighbours.png and neighbours.json: samples beside the nearest of all training images.
    #[arg(long)]
    neighbours: bool,
    /// Checkpoint to measure: best, last or, of a single run, a file (default: the best, where one is marked).
    #[arg(long, value_name = "WHICH")]
    checkpoint: Option<String>,
    /// TOML file laid over each run's own configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Overrides<Measured>,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let source = Source::file(args.config);
    let which = args.checkpoint.as_deref().map_or(Which::Usual, Which::from);
    if let (Which::File(path), 2..) = (&which, args.runs.len()) {
        let what = format!(
            "--checkpoint {} is one file, and there are {} runs: name best or last, or one run",
            path.display(),
            args.runs.len()
        );
        return Err(ConfigError::Missing(what).into());
    }
    let mut configs = Vec::with_capacity(args.runs.len());
    for run in args.runs {
        let checkpoint = Checkpoint::open(&RunFolder::find(&run, Stage::Ebm, &which)?)?;
        let mut kept = config_in(&checkpoint)?;
        // Figures need more images than a look does; a flag still has the last word.
        kept.sample.num_samples = demo::SAMPLES;
        let mut config = source.resolve_over(&kept, &args.flags)?;
        enough(config.sample.num_samples)?;
        config.run.out = run;
        configs.push((config, checkpoint));
    }
    measure(&configs, args.neighbours, Console::new(progress)?)
}

fn measure(
    subjects: &[(Config, Checkpoint)],
    neighbours: bool,
    mut with: Console,
) -> anyhow::Result<()> {
    let mut gauge = Gauge::new(&subjects[0].0, &mut *with.progress)?;
    let mut reports = Vec::with_capacity(subjects.len());
    for (config, checkpoint) in subjects {
        let mut device = config.run.open_device()?;
        let subject = Subject {
            config,
            checkpoint,
            count: config.sample.num_samples,
        };
        let outcome = demo::measure(
            &mut gauge,
            &subject,
            &mut *device,
            Seconds::default(),
            &mut *with.progress,
            &with.stop,
        )?;
        let Some(outcome) = outcome else {
            return super::say(STOPPED);
        };
        super::demo::tell(&outcome)?;
        if neighbours {
            let found =
                gauge.neighbours(&subject, &mut *device, &mut *with.progress, &with.stop)?;
            let Some(gallery) = found else {
                return super::say(STOPPED);
            };
            super::say(format_args!(
                "neighbours: {}",
                gallery.write(&config.run.out)?.display()
            ))?;
        }
        reports.push(outcome.report);
    }
    match reports.len() {
        1 => Ok(()),
        _ => super::say(format_args!("\n{}", summary(&reports).trim_end())),
    }
}
