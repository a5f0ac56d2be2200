//! `vaebm train vae`: stage 1.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::Source;
use crate::config::schema::Section;
use crate::config::{Config, ConfigError, Data, Guard, Run, Stage, TrainVae, Vae};
use crate::run::{RunFolder, Start};
use crate::train::{Ended, vae};
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct StageOne;

impl Scope for StageOne {
    const SECTIONS: &'static [Section] = &[
        TrainVae::SECTION,
        Vae::SECTION,
        Data::SECTION,
        Run::SECTION,
        Guard::SECTION,
    ];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[("run", "preset")];
}

/// Train the VAE (stage 1).
///
/// Writes the run folder: config.toml, machine.json, metrics.jsonl, samples/ and checkpoints/. Ctrl-C saves and ends.
///
/// Examples:
///   vaebm train vae glyphs
///   vaebm train vae mnist --data ./mnist --steps 4000 --out runs/mnist
///   vaebm train vae --resume runs/mnist
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Go on from the last checkpoint of this run folder (default: the one that --out or the configuration names).
    #[arg(long, value_name = "RUN")]
    resume: Option<Option<PathBuf>>,
    #[command(flatten)]
    flags: Overrides<StageOne>,
}

/// The folder to resume and how its stage begins.
pub(super) fn resolve<S>(
    source: &Source,
    resume: Option<&Option<PathBuf>>,
    flags: &Overrides<S>,
) -> Result<(Config, Start), ConfigError> {
    let Some(named) = resume else {
        return Ok((source.resolve(flags)?, Start::Fresh));
    };
    let layer = flags.layer()?;
    let root = if let Some(named) = named {
        named.clone()
    } else if let Some(out) = layer.text("run", "out") {
        out.into()
    } else if source.is_given() {
        source.resolve(flags)?.run.out
    } else {
        return Err(ConfigError::Missing(
            "name the run folder: --resume RUN".into(),
        ));
    };
    // The folder keeps what the run was started with; only what is given again changes.
    let kept = Config::load(&RunFolder::config_of(&root))?;
    let mut config = source.resolve_over(&kept, flags)?;
    config.run.out = root;
    Ok((config, Start::Resume))
}

impl Args {
    pub(super) fn resolve(&self) -> Result<(Config, Start), ConfigError> {
        resolve(&self.source, self.resume.as_ref(), &self.flags)
    }
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let (config, start) = args.resolve()?;
    config.check_stage(Stage::Vae)?;
    train(&config, start, Console::new(progress)?)
}

fn train(config: &Config, start: Start, mut with: Console) -> anyhow::Result<()> {
    let mut device = config.run.open_device()?;
    let ended = vae::train(config, &mut *device, start, &mut *with.progress, &with.stop)?;
    tell_end(config, ended)
}

/// Says where the run lies and how to go on.
pub(super) fn tell_end(config: &Config, ended: Ended) -> anyhow::Result<()> {
    let out = config.run.out.display();
    match ended {
        Ended::Done => super::say(format_args!("done: {out}")),
        Ended::Stopped => super::say(format_args!("stopped and saved: go on with --resume {out}")),
    }
}
