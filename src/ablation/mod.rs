//! The paper's ablation: what the VAE gives the energy network, at equal budget.
//!
//! From one VAE three energy networks are trained, with the same network, images, iterations and Langevin steps: alone on pixels, alone
//! on pixels with chains that start at the VAE's samples, and as a VAEBM. One yardstick measures them all.

mod table;

use std::path::{Path, PathBuf};

pub use table::{Row, Table};

use crate::checkpoint::Checkpoint;
use crate::config::{Config, FinalImage, Model, Stage};
use crate::data::picture::{GridOptions, Picture};
use crate::device::Device;
use crate::eval::compare::{Gauge, Subject};
use crate::langevin::programs::{Chains, EBM};
use crate::langevin::sampler::Sampler;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Observer, RunFolder, Start, StopFlag};
use crate::train::vae::image_shape;
use crate::train::{Ended, StateList, TrainError, ebm, restore_decoder};

/// The three, in the order of the table.
pub const MODELS: [Model; 3] = [Model::Pixels, Model::PixelsFromVae, Model::Vaebm];
/// Images of each panel of the picture.
const SHOWN: usize = 36;

/// What the chains of pixels do otherwise than those of the VAEBM, where that is said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PixelChains {
    /// Their step size, eta; `None` for the VAEBM's.
    pub step_size: Option<f64>,
    /// Their network's learning rate; `None` for the VAEBM's.
    pub lr: Option<f64>,
    /// Their Langevin steps; `None` for as many as the VAEBM's: then the budget is equal.
    pub num_steps: Option<usize>,
}

/// One VAE with the configuration that its three energy networks start from.
#[derive(Clone, Debug)]
pub struct Base {
    /// What goes before the name of a model's folder.
    pub name: String,
    /// The stage-1 checkpoint.
    pub vae: PathBuf,
    /// The configuration; its run folder holds those of all models.
    pub config: Config,
}

/// What is written at the end.
#[derive(Debug)]
pub struct Outcome {
    /// The figures.
    pub table: Table,
    /// Where they lie, for people.
    pub table_path: PathBuf,
    /// Where the picture lies, of the first VAE's models.
    pub picture_path: PathBuf,
}

/// The configuration of one model of the ablation. Samples are drawn by the same chains as in training.
pub fn configured(base: &Base, model: Model, pixels: PixelChains) -> Config {
    let mut config = base.config.clone();
    config.ebm.model = model;
    // An equal budget: each model's last checkpoint counts, not one that was chosen.
    (config.train_ebm.score_every, config.train_ebm.patience) = (0, 0);
    if model != Model::Vaebm {
        let train = &mut config.train_ebm;
        train.step_size = pixels.step_size.unwrap_or(train.step_size);
        train.lr = pixels.lr.unwrap_or(train.lr);
        train.num_steps = pixels.num_steps.unwrap_or(train.num_steps);
    }
    config.sample.num_steps = config.train_ebm.num_steps;
    config.sample.step_size = config.train_ebm.step_size;
    config.sample.target = config.train_ebm.target;
    config.run.out = base
        .config
        .run
        .out
        .join(format!("{}-{}", base.name, model.name()));
    config
}

/// Trains what is not trained yet, measures `samples` images of each model, and writes `ablation.txt`, `ablation.json` and `ablation.png`
/// into `out`.
///
/// `None` if it was asked to stop; what was trained is kept, and the same call goes on from it.
///
/// # Errors
/// A folder that holds a run with other settings, images that differ between the VAEs, and whatever training reports.
pub fn run(
    bases: &[Base],
    pixels: PixelChains,
    samples: usize,
    out: &Path,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Option<Outcome>, TrainError> {
    for base in bases {
        for model in MODELS {
            let config = configured(base, model, pixels);
            if train(&config, &base.vae, observer, stop)? == Ended::Stopped {
                return Ok(None);
            }
        }
    }
    let Some(first) = bases.first() else {
        return Err(TrainError::Mismatch("an ablation needs a VAE".into()));
    };
    let mut gauge = Gauge::new(&first.config, observer)?;
    let mut table = Table::default();
    let mut panels = Vec::new();
    for base in bases {
        for model in MODELS {
            let config = configured(base, model, pixels);
            let last = RunFolder::checkpoint_at(&config.run.out, Stage::Ebm)?;
            let checkpoint = Checkpoint::open(&last)?;
            let mut device = config.run.open_device()?;
            let subject = Subject {
                config: &config,
                checkpoint: &checkpoint,
                count: samples,
            };
            let Some((comparison, _)) = gauge.compare(&subject, &mut *device, observer, stop)?
            else {
                return Ok(None);
            };
            table.add(&base.name, model, &config, &comparison);
            if std::ptr::eq(base, first) {
                let [starts, ends] = pictured(&config, &checkpoint, &mut *device, observer, stop)?;
                if model == Model::PixelsFromVae {
                    panels.insert(0, ("VAE", starts));
                }
                panels.push((caption(model), ends));
            }
        }
    }
    let picture_path = out.join("ablation.png");
    Picture::panels(&panels).write_png(&picture_path)?;
    let table_path = table.write(out)?;
    Ok(Some(Outcome {
        table,
        table_path,
        picture_path,
    }))
}

/// What the table and the picture call a model.
fn caption(model: Model) -> &'static str {
    match model {
        Model::Pixels => "pixels",
        Model::PixelsFromVae => "pixels from VAE",
        Model::Vaebm => "VAEBM",
    }
}

/// Trains one model, on from its last checkpoint if there is one.
fn train(
    config: &Config,
    vae: &Path,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Ended, TrainError> {
    let mut device = config.run.open_device()?;
    let Ok(last) = RunFolder::last_checkpoint_at(&config.run.out, Stage::Ebm) else {
        let vae = Checkpoint::open(vae)?;
        return ebm::train(config, &mut *device, Start::Fresh, &vae, observer, stop);
    };
    let last = Checkpoint::open(&last)?;
    let told = format!("{} (its configuration)", last.path().display());
    let kept = Config::from_toml(&last.header().config, &told)?;
    let what = (
        &kept.ebm,
        &kept.train_ebm,
        &kept.data,
        &kept.vae,
        kept.run.seed,
    );
    let asked = (
        &config.ebm,
        &config.train_ebm,
        &config.data,
        &config.vae,
        config.run.seed,
    );
    if what != asked {
        return Err(TrainError::Mismatch(format!(
            "{} was trained with other settings than these; give the same ones to go on, or name another folder with --out",
            config.run.out.display()
        )));
    }
    if last.header().step >= config.train_ebm.total_iter {
        return Ok(Ended::Done);
    }
    ebm::train(config, &mut *device, Start::Resume, &last, observer, stop)
}

/// The same chains of a model at their starts and at their ends.
fn pictured(
    config: &Config,
    checkpoint: &Checkpoint,
    device: &mut dyn Device,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<[Picture; 2], TrainError> {
    restore_decoder(config, device, checkpoint, observer, stop)?;
    let chains = Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: SHOWN,
        target: config.sample.target,
        temperature: config.sample.temperature,
    };
    StateList::restore_params(device, checkpoint, EBM, &chains.params().1)?;
    let shape = image_shape(&chains.model);
    let sampler = Sampler::new(device, chains)?;
    let noise = Noise {
        seed: config.run.seed,
        ..Noise::default()
    };
    let options = GridOptions {
        columns: 6,
        ..GridOptions::default()
    };
    let grid = |images: &[f32]| Picture::grid(images, shape, &options);
    sampler.start(device, noise)?;
    let starts = grid(&sampler.images(device, FinalImage::Sample)?.images);
    let s = &config.sample;
    sampler.advance(device, noise, s.num_steps as u32, s.step_size)?;
    let ends = grid(&sampler.images(device, FinalImage::Sample)?.images);
    sampler.release(device);
    Ok([starts, ends])
}
