//! `vaebm likelihood`: how likely held-out images are under a run's VAE.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::{Source, config_in};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Data, Run, Stage};
use crate::eval::evidence::{Settings, measure};
use crate::run::RunFolder;
use crate::train::images;
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct Measured;

impl Scope for Measured {
    const SECTIONS: &'static [Section] = &[Data::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
        // Evaluation neither mirrors nor draws training images.
        ("data", "flip"),
        ("data", "draws"),
    ];
}

/// Measure the likelihood of held-out images under a run's VAE.
///
/// Prints the evidence lower bound and the importance-weighted bound of log p(x) (Burda et al. 2016), in nats per image and in
/// bits per dimension. More samples make the second bound tighter; published figures take 1000. Images are the run's held-out
/// ones, or others with --data or --dataset.
///
/// Examples:
///   vaebm likelihood runs/mnist
///   vaebm likelihood runs/cifar10 --samples 1000 --images 500 --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folder or stage-1 checkpoint file.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// TOML file laid over the run's own configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Importance samples per image.
    #[arg(long, value_name = "K", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Images; 0 takes all that are held out.
    #[arg(long, value_name = "N", default_value_t = 0)]
    images: u32,
    /// Images evaluated together (default: as in training).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: Option<u32>,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Overrides<Measured>,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&RunFolder::checkpoint_at(&args.run, Stage::Vae)?)?;
    let kept = config_in(&checkpoint)?;
    let config = Source::file(args.config).resolve_over(&kept, &args.flags)?;
    config.check_stage(Stage::Vae)?;
    let settings = Settings {
        samples: args.samples,
        images: args.images as usize,
        batch: args
            .batch
            .map_or(config.train_vae.batch_size, |n| n as usize),
    };
    let splits = images::open(&config)?;
    let mut with = Console::new(progress)?;
    let mut device = config.run.open_device()?;
    let evidence = measure(
        &config,
        &mut *device,
        &checkpoint,
        &splits,
        settings,
        &mut *with.progress,
        &with.stop,
    )?;
    match evidence {
        Some(evidence) if args.json => super::say(serde_json::to_string(&evidence)?),
        Some(evidence) => super::say(evidence.text().trim_end()),
        None => super::say("stopped; nothing was measured"),
    }
}
