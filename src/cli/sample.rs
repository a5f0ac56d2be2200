//! `vaebm sample`: images from a trained model.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::{Source, config_in};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Config, Run, Sample, Stage};
use crate::langevin::draw;
use crate::run::RunFolder;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Sampling;

impl Scope for Sampling {
    const SECTIONS: &'static [Section] = &[Sample::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
    ];
}

/// Sample images from a trained model by Langevin dynamics.
///
/// RUN is a run folder or a checkpoint file. With an energy network its chains run; a VAE alone is sampled directly
/// (so is the VAE under an energy network with --num-steps 0).
///
/// Examples:
///   vaebm sample runs/glyphs
///   vaebm sample runs/mnist --n 256 --num-steps 40 --step-size 5e-6 --energies --out pictures
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folder or checkpoint file.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// TOML file laid over the run's own configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for the images (default: samples/ in the run folder).
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    flags: Overrides<Sampling>,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let path = RunFolder::checkpoint_at(&args.run, Stage::Ebm)
        .or_else(|_| RunFolder::checkpoint_at(&args.run, Stage::Vae))?;
    let checkpoint = Checkpoint::open(&path)?;
    let config = Source::file(args.config).resolve_over(&config_in(&checkpoint)?, &args.flags)?;
    let out = match args.out {
        Some(out) => out,
        None if args.run.is_dir() => args.run.join("samples"),
        None => "samples".into(),
    };
    sample(&config, &checkpoint, &out, Console::new(progress)?)
}

fn sample(
    config: &Config,
    checkpoint: &Checkpoint,
    out: &Path,
    mut with: Console,
) -> anyhow::Result<()> {
    let mut device = config.run.open_device()?;
    let written = draw::draw(
        config,
        &mut *device,
        checkpoint,
        out,
        &mut *with.progress,
        &with.stop,
    )?;
    super::say(format_args!(
        "{} images in {}",
        written.images,
        out.display()
    ))?;
    super::say(format_args!("overview: {}", written.overview.display()))
}
