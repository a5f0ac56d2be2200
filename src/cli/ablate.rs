//! `vaebm ablate`: the paper's ablation on a trained VAE.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::{Source, config_in};
use super::train_ebm::adopt;
use crate::ablation::{self, Base, PixelChains};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{ConfigError, Data, Ebm, Run, Stage, TrainEbm};
use crate::demo;
use crate::run::RunFolder;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Ablated;

impl Scope for Ablated {
    const SECTIONS: &'static [Section] =
        &[TrainEbm::SECTION, Ebm::SECTION, Data::SECTION, Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("ebm", "model"),
        ("train_ebm", "use_buffer"),
        ("train_ebm", "buffer_size"),
        ("train_ebm", "max_p"),
        ("train_ebm", "anneal_step"),
    ];
}

/// Train an energy network alone on pixels, on pixels from the VAE's samples, and as a VAEBM, and compare.
///
/// All three have the same network, images, iterations and Langevin steps, and the same classifier measures their
/// samples. OUT gets a run folder for each, ablation.txt, ablation.json and ablation.png. Called again, it goes on from
/// what is there. Several VAEs, such as those of several seeds, give means as well.
///
/// Examples:
///   vaebm ablate runs/mnist
///   vaebm ablate runs/mnist-1 runs/mnist-2 --pixel-step-size 1e-4 --out runs/mnist-ablation
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folders with a trained VAE.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Folder for the runs and the figures.
    #[arg(long, value_name = "DIR", default_value = "runs/ablation")]
    out: PathBuf,
    /// Images measured of each model.
    #[arg(long, value_name = "COUNT", default_value_t = demo::SAMPLES)]
    n: usize,
    /// Step size eta of chains that move pixels.
    #[arg(long, value_name = "NUMBER", default_value_t = 1e-4)]
    pixel_step_size: f64,
    /// Learning rate of networks whose chains move pixels (default: the VAEBM's).
    #[arg(long, value_name = "NUMBER")]
    pixel_lr: Option<f64>,
    /// Langevin steps of chains that move pixels (default: the VAEBM's; another number is no longer an equal budget).
    #[arg(long, value_name = "COUNT")]
    pixel_num_steps: Option<usize>,
    /// TOML file laid over each VAE's own configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Overrides<Ablated>,
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let pixels = PixelChains {
        step_size: Some(args.pixel_step_size),
        lr: args.pixel_lr,
        num_steps: args.pixel_num_steps,
    };
    if args.n == 0 {
        return Err(ConfigError::Invalid(vec!["--n 0 must be at least 1".into()]).into());
    }
    let source = Source::file(args.config);
    let mut bases: Vec<Base> = Vec::with_capacity(args.runs.len());
    for run in args.runs {
        let vae = RunFolder::checkpoint_at(&run, Stage::Vae)?;
        let kept = config_in(&Checkpoint::open(&vae)?)?;
        let mut config = source.resolve_over(&kept, &args.flags)?;
        adopt(&mut config, &kept)?;
        config.run.out = args.out.clone();
        let name = name_of(&run);
        if bases.iter().any(|b| b.name == name) {
            let told =
                format!("two of the runs are called `{name}`: their models would share a folder");
            return Err(ConfigError::Invalid(vec![told]).into());
        }
        let base = Base { name, vae, config };
        for model in ablation::MODELS {
            let config = ablation::configured(&base, model, pixels);
            config.validate()?;
            config.check_stage(Stage::Ebm)?;
        }
        bases.push(base);
    }
    let mut with = Console::new(progress)?;
    let outcome = ablation::run(
        &bases,
        pixels,
        args.n,
        &args.out,
        &mut *with.progress,
        &with.stop,
    )?;
    let Some(outcome) = outcome else {
        return super::say("stopped; call it again to go on");
    };
    super::say(outcome.table.text())?;
    super::say(format_args!("picture: {}", outcome.picture_path.display()))?;
    super::say(format_args!("table:   {}", outcome.table_path.display()))
}

/// The name of a run's folder, or of the folder that a checkpoint lies in.
fn name_of(run: &Path) -> String {
    let folder = if run.is_file() {
        run.with_extension("")
    } else {
        run.canonicalize().unwrap_or_else(|_| run.into())
    };
    folder
        .file_name()
        .map_or_else(|| "vae".into(), |n| n.to_string_lossy().into_owned())
}
