//! `vaebm chains`: whether chains mix, and how fast.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::{Source, config_in};
use crate::checkpoint::{Checkpoint, replace_file};
use crate::config::schema::Section;
use crate::config::{ChainsConfig, Config, ConfigError, Run, Sample, Stage};
use crate::data::arrays::write_npz;
use crate::langevin::densities::Analytic;
use crate::langevin::study::{of_run, study};
use crate::run::RunFolder;
use anyhow::Context;
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct Measured;

impl Scope for Measured {
    const SECTIONS: &'static [Section] = &[ChainsConfig::SECTION, Sample::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("sample", "num_samples"),
        ("sample", "batch_size"),
        ("sample", "num_steps"),
        ("sample", "step_size"),
        ("sample", "start"),
        ("sample", "image"),
        ("sample", "pixel_range"),
        ("sample", "energies"),
        ("sample", "trajectory"),
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
    ];
}

/// Measure how chains mix: effective sample sizes, R-hat, autocorrelation, ESS per second, acceptance, movement.
///
/// RUN is a run folder or a checkpoint file of stage 2. Without one, --target-density names a density with a known answer, on which
/// samplers can be compared with those of other libraries on equal ground.
/// In a run folder the figures are kept as chains.json, which `vaebm report` shows. How to read them: docs/chains.md.
///
/// Examples:
///   vaebm chains runs/glyphs --num-chains 32 --num-draws 500
///   vaebm chains runs/glyphs --sampler mala --target paper --num-warmup 500 --traces traces.npz
///   vaebm chains --target-density gaussian --dim 100 --condition-number 1000 --sampler mala --json
///   vaebm chains --target-density mixture --step-schedule geometric --step-size 1 --step-size-end 0.01
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folder or checkpoint file.
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,
    /// TOML file laid over the run's own configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
    /// Write every trace into this .npz file: one array [chains, draws] each.
    #[arg(long, value_name = "FILE")]
    traces: Option<PathBuf>,
    #[command(flatten)]
    flags: Overrides<Measured>,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let source = Source::file(args.config);
    let checkpoint = match &args.run {
        Some(run) => Some(Checkpoint::open(&RunFolder::checkpoint_at(
            run,
            Stage::Ebm,
        )?)?),
        None => None,
    };
    let kept = match &checkpoint {
        Some(checkpoint) => config_in(checkpoint)?,
        None => Config::default(),
    };
    let config = source.resolve_over(&kept, &args.flags)?;
    let density = Analytic::of(&config.chains);
    if density.is_some() == checkpoint.is_some() {
        return Err(ConfigError::Missing(
            match density {
                Some(_) => "a run and --target-density exclude each other: leave one of them out",
                None => {
                    "name a run, or a density with --target-density (gaussian, funnel, mixture)"
                }
            }
            .into(),
        )
        .into());
    }
    config.check_sampler()?;
    let mut device = config.run.open_device()?;
    let mut with = Console::new(progress)?;
    let (observer, stop) = (&mut *with.progress, &with.stop);
    let measured = match (density, &checkpoint) {
        (Some(density), _) => {
            let (about, step_size) = (density.to_string(), density.default_step_size());
            study(
                &config,
                density,
                about,
                step_size,
                &mut *device,
                observer,
                stop,
            )?
        }
        (None, Some(checkpoint)) => {
            let chains = of_run(&config, &mut *device, checkpoint, observer, stop)?;
            let target = match chains.moves_pixels() {
                true => config.ebm.model.to_string(),
                false => format!("{} target", config.sample.target),
            };
            let about = format!("{}, {target}", checkpoint.path().display());
            let step_size = config.sample.step_size;
            study(
                &config,
                chains,
                about,
                step_size,
                &mut *device,
                observer,
                stop,
            )?
        }
        (None, None) => unreachable!("refused above"),
    };
    let Some(measured) = measured else {
        return super::say("stopped; nothing was measured");
    };
    match args.json {
        true => super::say(serde_json::to_string(&measured)?)?,
        false => super::say(measured.text().trim_end())?,
    }
    if let Some(path) = &args.traces {
        let saved = replace_file(path, &write_npz(&measured.arrays()));
        saved.with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(run) = args.run.filter(|run| run.is_dir()) {
        let path = run.join("chains.json");
        let saved = replace_file(&path, measured.record()?.to_string().as_bytes());
        saved.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
