//! `vaebm sample`: images from a trained model.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::{Source, config_in};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Config, Run, Sample, Stage};
use crate::data::export::Destinations;
use crate::langevin::draw;
use crate::run::{RunError, RunFolder, Which};
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
/// Tools that measure samples take a folder with nothing else in it (--png-dir) or one file (--npz); with either, the folder of --out
/// gets the overview alone.
///
/// Examples:
///   vaebm sample runs/glyphs
///   vaebm sample runs/mnist --n 256 --num-steps 40 --step-size 5e-6 --energies --out pictures
///   vaebm sample runs/mnist --checkpoint last
///   vaebm sample runs/mnist --n 50000 --npz samples.npz --png-dir samples
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folder or checkpoint file.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Checkpoint to sample from: best, last or a file (default: the best, where one is marked).
    #[arg(long, value_name = "WHICH")]
    checkpoint: Option<String>,
    /// TOML file laid over the run's own configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for the images and their overview (default: samples/ in the run folder).
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write the images as PNG files into this new or empty folder instead.
    #[arg(long, value_name = "DIR")]
    png_dir: Option<PathBuf>,
    /// Write the images into this new .npz file instead: `arr_0`, bytes [n, height, width, channels].
    #[arg(long, value_name = "FILE")]
    npz: Option<PathBuf>,
    #[command(flatten)]
    flags: Overrides<Sampling>,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let which = args.checkpoint.as_deref().map_or(Which::Usual, Which::from);
    let path = match RunFolder::find(&args.run, Stage::Ebm, &which) {
        // A run of stage 2 without a best checkpoint is not sampled from its VAE instead.
        Err(error @ RunError::NoBest { .. }) => return Err(error.into()),
        Err(_) => RunFolder::find(&args.run, Stage::Vae, &which)?,
        Ok(path) => path,
    };
    let checkpoint = Checkpoint::open(&path)?;
    let config = Source::file(args.config).resolve_over(&config_in(&checkpoint)?, &args.flags)?;
    let out = match args.out {
        Some(out) => out,
        None if args.run.is_dir() => args.run.join("samples"),
        None => "samples".into(),
    };
    let destinations = Destinations {
        png_dir: args.png_dir,
        npz: args.npz,
    };
    let console = Console::new(progress)?;
    sample(&config, &checkpoint, &out, &destinations, console)
}

fn sample(
    config: &Config,
    checkpoint: &Checkpoint,
    out: &Path,
    destinations: &Destinations,
    mut with: Console,
) -> anyhow::Result<()> {
    let mut device = config.run.open_device()?;
    let written = draw::draw(
        config,
        &mut *device,
        checkpoint,
        out,
        destinations,
        &mut *with.progress,
        &with.stop,
    )?;
    let mut places: Vec<String> = [&destinations.png_dir, &destinations.npz]
        .into_iter()
        .flatten()
        .map(|path| path.display().to_string())
        .collect();
    if places.is_empty() {
        places.push(out.display().to_string());
    }
    super::say(format_args!(
        "{} images in {}",
        written.images,
        places.join(" and ")
    ))?;
    super::say(format_args!("overview: {}", written.overview.display()))
}
