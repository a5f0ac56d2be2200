//! `vaebm ood`: how well a model tells images of other sets from its own.

use super::console::Console;
use super::overrides::{Overrides, Scope};
use super::progress::ProgressKind;
use super::source::{Source, config_in};
use crate::checkpoint::Checkpoint;
use crate::config::schema::Section;
use crate::config::{Config, Run, Stage};
use crate::eval::ood::{Detector, Named, Settings, Side};
use crate::run::{RunFolder, Which};
use std::path::{Path, PathBuf};

const STOPPED: &str = "stopped; nothing more was written";

#[derive(Debug)]
pub(super) struct Scored;

impl Scope for Scored {
    const SECTIONS: &'static [Section] = &[Run::SECTION];
    const WITHOUT: &'static [(&'static str, &'static str)] = &[
        ("run", "preset"),
        ("run", "out"),
        ("run", "keep_last"),
        ("run", "keep_every"),
    ];
}

/// Tell images of other sets from a run's own: out-of-distribution detection.
///
/// Scores held-out images of two sets by the energy E(x), by -log h(x) of the VAEBM up to its constant, and by the VAE's -log p(x)
/// (importance-weighted) and -ELBO, and gives for each the area under the ROC curve with its 95% interval. Writes the figures
/// as JSON and the histograms as SVG into the run folder. A set is glyphs, stacked-glyphs, mnist:DIR, fashion-mnist:DIR,
/// stacked-mnist:DIR, cifar10:DIR or images:DIR (PNG files), and is prepared as the run's own images are. Its size and channels must fit.
///
/// Examples:
///   vaebm ood runs/mnist --out fashion-mnist:./fashion
///   vaebm ood runs/cifar10 --out images:./textures --out images:./noise --images 2000
///   vaebm ood runs/ebm --vae runs/mnist --in mnist:./mnist --out fashion-mnist:./fashion --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Run folder, or checkpoint file of either stage. A run without an energy network is scored by its VAE alone.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The set that counts as the model's own (default: the run's).
    #[arg(long = "in", value_name = "SET[:PATH]")]
    inside: Option<Named>,
    /// The other set; more than one are told apart from the first one by one.
    #[arg(long = "out", value_name = "SET[:PATH]", required = true)]
    outside: Vec<Named>,
    /// Run folder or checkpoint file of the VAE, whose encoder a checkpoint of stage 2 does not keep (default: RUN).
    #[arg(long, value_name = "RUN")]
    vae: Option<PathBuf>,
    /// Checkpoint of the energy network: best, last or a file (default: the best, where one is marked).
    #[arg(long, value_name = "WHICH")]
    checkpoint: Option<String>,
    /// Importance samples per image.
    #[arg(long, value_name = "K", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Images of each set, from all over it; 0 takes all that are held out.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    images: u32,
    /// Images scored together (default: as in training).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: Option<u32>,
    /// Folder for figures and histograms (default: the run folder; of a checkpoint file, the working folder).
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Print the figures as JSON, one object a line for each --out.
    #[arg(long)]
    json: bool,
    /// TOML file laid over the run's own configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Overrides<Scored>,
}

/// The checkpoints of both stages: that of the VAE, and that of the energy network where there is one.
fn checkpoints(args: &Args) -> anyhow::Result<(Checkpoint, Option<Checkpoint>)> {
    let which = args.checkpoint.as_deref().map_or(Which::Usual, Which::from);
    let vae_at = args.vae.as_deref().unwrap_or(&args.run);
    let named = if args.run.is_file() {
        Some(Checkpoint::open(&args.run)?)
    } else {
        None
    };
    let stage = |c: &Checkpoint| c.header().stage.clone();
    if let Some(vae) = named.as_ref().filter(|c| stage(c) == Stage::Vae.name()) {
        return Ok((Checkpoint::open(vae.path())?, None));
    }
    let ebm = match RunFolder::find(&args.run, Stage::Ebm, &which) {
        Ok(path) => Some(Checkpoint::open(&path)?),
        // A run of stage 1 alone; of a choice that was made, the error stays.
        Err(_) if which == Which::Usual && vae_of(&args.run).is_ok() => None,
        Err(error) => return Err(error.into()),
    };
    let vae = Checkpoint::open(&vae_of(vae_at)?)?;
    for (checkpoint, want) in [(Some(&vae), Stage::Vae), (ebm.as_ref(), Stage::Ebm)] {
        if let Some(other) = checkpoint.filter(|c| stage(c) != want.name()) {
            anyhow::bail!(
                "{} is a checkpoint of stage `{}`, and one of stage `{}` is needed: a checkpoint of stage 2 keeps the decoder alone, so \
                 name the VAE's run with --vae",
                other.path().display(),
                stage(other),
                want.name()
            );
        }
    }
    Ok((vae, ebm))
}

fn vae_of(at: &Path) -> anyhow::Result<PathBuf> {
    RunFolder::checkpoint_at(at, Stage::Vae).map_err(|error| {
        anyhow::anyhow!(
            "{error}: the bounds need the encoder, which a checkpoint of stage 2 does not keep; name the VAE's run with --vae"
        )
    })
}

pub(super) fn run(args: Args, progress: ProgressKind) -> anyhow::Result<()> {
    let (vae, ebm) = checkpoints(&args)?;
    let kept = config_in(ebm.as_ref().unwrap_or(&vae))?;
    let config = Source::file(args.config.clone()).resolve_over(&kept, &args.flags)?;
    let folder = match (&args.write, args.run.is_dir()) {
        (Some(folder), _) => folder.clone(),
        (None, true) => args.run.clone(),
        (None, false) => PathBuf::from("."),
    };
    let images = args.images as usize;
    // All sets are opened before anything is computed: what does not fit is told at once.
    let inside = match &args.inside {
        Some(named) => Side::named(&config, named, "--in", images)?,
        None => {
            config.check_stage(Stage::Vae)?;
            Side::own(&config, images)?
        }
    };
    let outside: Vec<Side> = (args.outside.iter())
        .map(|named| Side::named(&config, named, "--out", images))
        .collect::<Result<_, _>>()?;
    std::fs::create_dir_all(&folder)
        .map_err(|error| anyhow::anyhow!("{}: {error}", folder.display()))?;
    let settings = Settings {
        samples: args.samples,
        batch: args
            .batch
            .map_or(config.train_vae.batch_size, |n| n as usize),
    };
    detect(
        &config,
        (&vae, ebm.as_ref()),
        settings,
        (&inside, &outside),
        &folder,
        args.json,
        progress,
    )
}

fn detect(
    config: &Config,
    (vae, ebm): (&Checkpoint, Option<&Checkpoint>),
    settings: Settings,
    (inside, outside): (&Side, &[Side]),
    folder: &Path,
    json: bool,
    progress: ProgressKind,
) -> anyhow::Result<()> {
    let mut with = Console::new(progress)?;
    let mut device = config.run.open_device()?;
    let mut detector = Detector::new(config, &mut *device, vae, ebm, settings)?;
    let Some(own) = detector.score(inside, &mut *with.progress, &with.stop)? else {
        return super::say(STOPPED);
    };
    for (i, other) in outside.iter().enumerate() {
        let Some(scores) = detector.score(other, &mut *with.progress, &with.stop)? else {
            return super::say(STOPPED);
        };
        let detection = detector.compare((inside, &own), (other, &scores));
        let picture = detection.write(folder)?;
        if json {
            super::say(serde_json::to_string(&detection)?)?;
            continue;
        }
        if i > 0 {
            super::say("")?;
        }
        super::say(detection.text().trim_end())?;
        super::say(format_args!("histograms: {}", picture.display()))?;
    }
    Ok(())
}
