//! `vaebm train ebm`: stage 2.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::{Source, config_in};
use super::train_vae::{resolve, tell_end};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Config, ConfigError, Data, Ebm, Guard, Run, Stage, TrainEbm};
use crate::run::{RunFolder, Start};
use crate::train::ebm;
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct StageTwo;

impl Scope for StageTwo {
    const SECTIONS: &'static [Section] = &[
        TrainEbm::SECTION,
        Ebm::SECTION,
        Data::SECTION,
        Run::SECTION,
        Guard::SECTION,
    ];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[("run", "preset")];
}

/// Train the energy network on top of a trained VAE (stage 2).
///
/// The VAE is taken from --vae, or else from the run folder itself, its best checkpoint first. Architecture and image
/// shape come from that VAE. Ctrl-C saves and ends.
///
/// Examples:
///   vaebm train ebm --vae runs/glyphs
///   vaebm train ebm mnist --data ./mnist --vae runs/mnist --total-iter 2000 --out runs/mnist-ebm
///   vaebm train ebm --resume runs/mnist-ebm
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Run folder or checkpoint file of the VAE.
    #[arg(long, value_name = "RUN")]
    vae: Option<PathBuf>,
    /// Go on from the last checkpoint of this run folder (default: the one that --out or the configuration names).
    #[arg(long, value_name = "RUN")]
    resume: Option<Option<PathBuf>>,
    #[command(flatten)]
    flags: Overrides<StageTwo>,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let (mut config, start, vae) =
        match (&args.vae, args.resume.is_some() || args.source.is_given()) {
            (vae, true) => {
                let (config, start) = resolve(&args.source, args.resume.as_ref(), &args.flags)?;
                // A resumed run has the VAE's weights in its own checkpoint.
                let at = match (vae, start) {
                    (Some(vae), _) => RunFolder::checkpoint_at(vae, Stage::Vae)?,
                    (None, Start::Fresh) => RunFolder::checkpoint_at(&config.run.out, Stage::Vae)?,
                    (None, Start::Resume) => {
                        RunFolder::last_checkpoint_at(&config.run.out, Stage::Ebm)?
                    }
                };
                (config, start, Checkpoint::open(&at)?)
            }
            (Some(vae), false) => {
                let checkpoint = Checkpoint::open(&RunFolder::checkpoint_at(vae, Stage::Vae)?)?;
                let mut kept = config_in(&checkpoint)?;
                // The folder as it is named now: it may have been moved since.
                if vae.is_dir() {
                    kept.run.out = vae.clone();
                }
                (
                    args.source.resolve_over(&kept, &args.flags)?,
                    Start::Fresh,
                    checkpoint,
                )
            }
            (None, false) => {
                let what = "name the VAE with --vae RUN, a preset, or a run with --resume RUN";
                return Err(ConfigError::Missing(what.into()).into());
            }
        };
    adopt(&mut config, &config_in(&vae)?)?;
    config.check_stage(Stage::Ebm)?;
    train(&config, start, &vae, Console::new(progress)?)
}

/// Takes the architecture from the VAE's own configuration and checks that its images are the same.
pub(super) fn adopt(config: &mut Config, vae: &Config) -> Result<(), ConfigError> {
    let (asked, has) = (&config.data, &vae.data);
    if (asked.size, asked.channels) != (has.size, has.channels) {
        return Err(ConfigError::Invalid(vec![format!(
            "the VAE was trained on images of {0}x{0} with {1} channel(s), not {2}x{2} with {3}",
            has.size, has.channels, asked.size, asked.channels
        )]));
    }
    let mut other = Vec::new();
    let mut same = |key: &str, asked: String, has: String| {
        if asked != has {
            other.push(format!(
                "data.{key} = {asked}, and the VAE was trained with {has}: the energy network would learn the difference; leave the \
                 key to the VAE's run (--vae without a preset), or train a VAE on these images"
            ));
        }
    };
    same(
        "dataset",
        asked.dataset.to_string(),
        has.dataset.to_string(),
    );
    same("grain", asked.grain.to_string(), has.grain.to_string());
    same("crop", asked.crop.to_string(), has.crop.to_string());
    if !other.is_empty() {
        return Err(ConfigError::Invalid(other));
    }
    config.vae = vae.vae.clone();
    Ok(())
}

/// `vae` holds the VAE's weights; on resuming it is the stage-2 checkpoint itself.
fn train(config: &Config, start: Start, vae: &Checkpoint, mut with: Console) -> anyhow::Result<()> {
    let mut device = config.run.open_device()?;
    let ended = ebm::train(
        config,
        &mut *device,
        start,
        vae,
        &mut *with.progress,
        &with.stop,
    )?;
    tell_end(config, ended)
}
