//! The demo: both stages on a built-in set, samples of both, and figures that say which are better.

mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

pub use report::{Report, Seconds};

use crate::checkpoint::Checkpoint;
use crate::config::{Config, FinalImage, Stage};
use crate::data::picture::{GridOptions, Picture};
use crate::data::{Dataset, ImageShape, read_f32};
use crate::device::Device;
use crate::eval::classifier::{Classifier, Labels, Training};
use crate::eval::quality::Yardstick;
use crate::langevin::programs::{Chains, EBM};
use crate::langevin::sampler::Sampler;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Event, Observer, RunFolder, Start, StopFlag};
use crate::train::vae::image_shape;
use crate::train::vae_programs::VAE;
use crate::train::{Ended, StateList, TrainError, ebm, images, vae};

/// Samples of each kind that the figures are made from.
pub const SAMPLES: usize = 3000;
/// Training images that the Fréchet distance is measured to.
const REFERENCE: usize = 10_000;
/// Chains that are sampled together.
const BATCH: usize = 100;
/// Images of each kind in the picture.
const SHOWN: usize = 36;
/// Steps of one chain in the picture.
const PATH: usize = 9;

/// The seed's offset for sampling, so that no chain repeats one of the training.
const SAMPLING_SEED: u64 = 0x5a3d;

/// What a demo run gives.
pub struct Outcome {
    /// The figures.
    pub report: Report,
    /// Where the report for people lies.
    pub report_path: PathBuf,
    /// Where the picture lies.
    pub picture_path: PathBuf,
}

/// Samples of both models from the same starting noise.
struct Samples {
    vae: Vec<f32>,
    vaebm: Vec<f32>,
    path: Vec<f32>,
}

/// Trains both stages with this configuration into its run folder and measures samples.
///
/// `None` if it was asked to stop; everything trained so far is saved.
pub fn run(
    config: &Config,
    device: &mut dyn Device,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Option<Outcome>, TrainError> {
    let mut seconds = Seconds::default();
    let splits = images::open(config)?;
    let clock = Instant::now();
    let yardstick = yardstick(config, device, &splits.train, &splits.valid, observer)?;
    seconds.classifier = clock.elapsed().as_secs_f64();

    let clock = Instant::now();
    if vae::train(config, device, Start::Fresh, observer, stop)? == Ended::Stopped {
        return Ok(None);
    }
    seconds.vae = clock.elapsed().as_secs_f64();
    let best = RunFolder::checkpoint_at(&config.run.out, Stage::Vae)?;

    let clock = Instant::now();
    if ebm::train(
        config,
        device,
        Start::Fresh,
        &Checkpoint::open(&best)?,
        observer,
        stop,
    )? == Ended::Stopped
    {
        return Ok(None);
    }
    seconds.ebm = clock.elapsed().as_secs_f64();

    let clock = Instant::now();
    let samples = samples(config, device, observer)?;
    seconds.sampling = clock.elapsed().as_secs_f64();

    let clock = Instant::now();
    let held_out = read_f32(
        &*splits.valid,
        &(0..SAMPLES.min(splits.valid.len())).collect::<Vec<_>>(),
    )?;
    let report = Report {
        data: yardstick.measure(device, &held_out)?,
        vae: yardstick.measure(device, &samples.vae)?,
        vaebm: yardstick.measure(device, &samples.vaebm)?,
        samples: SAMPLES,
        classifier_accuracy: yardstick.accuracy(),
        seed: config.run.seed,
        seconds: Seconds {
            measuring: clock.elapsed().as_secs_f64(),
            ..seconds
        },
    };
    let out = &config.run.out;
    let picture_path = out.join("samples.png");
    picture(config, &held_out, &samples).write_png(&picture_path)?;
    let report_path = report.write(out)?;
    Ok(Some(Outcome {
        report,
        report_path,
        picture_path,
    }))
}

/// The classifier, and the reference features of training images.
fn yardstick(
    config: &Config,
    device: &mut dyn Device,
    train: &Arc<dyn Dataset>,
    valid: &Arc<dyn Dataset>,
    observer: &mut dyn Observer,
) -> Result<Yardstick, TrainError> {
    let labels = Labels {
        heads: config.data.channels,
        classes: 10,
    };
    let training = Training {
        steps: 500,
        learning_rate: 3e-3,
        // The classifier is part of the measure, not of the run: every run is measured by the same one.
        seed: 0,
    };
    let clock = Instant::now();
    observer.event(Event::PhaseStarted {
        name: "training the classifier that measures samples",
        total: Some(training.steps),
        done: 0,
    });
    let classifier = Classifier::train(device, train, valid, labels, training, |step, loss| {
        observer.event(Event::Step {
            step,
            scalars: &[("loss", loss)],
        });
    })?;
    observer.event(Event::PhaseEnded {
        seconds: clock.elapsed().as_secs_f64(),
    });
    let reference = read_f32(
        &**train,
        &(0..REFERENCE.min(train.len())).collect::<Vec<_>>(),
    )?;
    let law = vec![1.0 / labels.modes() as f64; labels.modes()];
    Yardstick::new(device, classifier, &reference, law)
}

/// Draws from both models: VAE samples are the chains' starting points.
fn samples(
    config: &Config,
    device: &mut dyn Device,
    observer: &mut dyn Observer,
) -> Result<Samples, TrainError> {
    let clock = Instant::now();
    observer.event(Event::PhaseStarted {
        name: "sampling",
        total: Some(SAMPLES as u64),
        done: 0,
    });
    let chains = Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: BATCH,
        target: config.sample.target,
        temperature: config.sample.temperature,
    };
    let checkpoint = Checkpoint::open(&RunFolder::checkpoint_at(&config.run.out, Stage::Ebm)?)?;
    let (vae_params, ebm_params) = chains.params();
    StateList::restore_params(device, &checkpoint, VAE, &vae_params)?;
    StateList::restore_params(device, &checkpoint, EBM, &ebm_params)?;
    let sampler = Sampler::new(device, chains)?;
    let s = &config.sample;
    let values = image_shape(&sampler.chains().model).values();
    let mut samples = Samples {
        vae: Vec::new(),
        vaebm: Vec::new(),
        path: Vec::new(),
    };
    for first in (0..SAMPLES).step_by(BATCH) {
        let noise = Noise {
            seed: config.run.seed ^ SAMPLING_SEED,
            step: 0,
            first_sample: first as u64,
        };
        sampler.start(device, noise)?;
        samples
            .vae
            .extend(sampler.images(device, FinalImage::Mean)?.images);
        if first == 0 {
            let stride = s.num_steps.div_ceil(PATH - 1).max(1);
            samples.path.extend(&samples.vae[..values]);
            for at in (0..s.num_steps).step_by(stride) {
                let steps = stride.min(s.num_steps - at);
                let noise = Noise {
                    step: at as u32,
                    ..noise
                };
                sampler.advance(device, noise, steps as u32, s.step_size)?;
                samples
                    .path
                    .extend(&sampler.images(device, FinalImage::Mean)?.images[..values]);
            }
        } else {
            sampler.advance(device, noise, s.num_steps as u32, s.step_size)?;
        }
        samples
            .vaebm
            .extend(sampler.images(device, FinalImage::Mean)?.images);
        observer.event(Event::Step {
            step: (first + BATCH) as u64,
            scalars: &[],
        });
    }
    sampler.release(device);
    observer.event(Event::PhaseEnded {
        seconds: clock.elapsed().as_secs_f64(),
    });
    Ok(samples)
}

/// Data, VAE samples, VAEBM samples from the same noise, and one chain's path, side by side.
fn picture(config: &Config, held_out: &[f32], samples: &Samples) -> Picture {
    let shape = ImageShape {
        height: config.data.size,
        width: config.data.size,
        channels: config.data.channels,
    };
    let grid = |images: &[f32], count: usize, columns: usize| {
        let options = GridOptions {
            columns,
            ..GridOptions::default()
        };
        Picture::grid(
            &images[..(count * shape.values()).min(images.len())],
            shape,
            &options,
        )
    };
    Picture::panels(&[
        ("data", grid(held_out, SHOWN, 6)),
        ("VAE", grid(&samples.vae, SHOWN, 6)),
        ("VAEBM", grid(&samples.vaebm, SHOWN, 6)),
        ("chain", grid(&samples.path, PATH, 1)),
    ])
}
