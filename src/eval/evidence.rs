//! The likelihood of a data set under a trained VAE: `vaebm likelihood`.

use std::time::Instant;

use serde::Serialize;

use super::likelihood::{Estimate, Likelihood};
use crate::checkpoint::Checkpoint;
use crate::config::{Config, Decoder, Stage};
use crate::data::Splits;
use crate::device::{Device, ProgramId};
use crate::nn::params::ParamSpec;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Event, Observer, StopFlag};
use crate::tape::plan_within;
use crate::train::images::Images;
use crate::train::vae_programs::{
    EVAL_STREAM, NoiseSource, Recorded, VAE, eval_pass, loss_dimensions,
};
use crate::train::{StateList, TrainError};

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Importance samples per image.
    pub samples: u32,
    /// Images at most; 0 takes all.
    pub images: usize,
    /// Images that are evaluated together; the figures do not depend on it beyond rounding.
    pub batch: usize,
}

/// What was measured, and how.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Evidence {
    /// The figures.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Importance samples per image.
    pub importance_samples: u32,
    /// Images.
    pub images: usize,
    /// Values of an image that bits per dimension are per.
    pub dimensions: usize,
    /// The output distribution; a `normal` one gives densities, the others probabilities.
    pub decoder: Decoder,
    /// Bits per colour of the images.
    pub num_x_bits: u32,
    /// Steps that the VAE was trained for.
    pub step: u64,
    /// Seed of the posterior's noise.
    pub seed: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// An evaluation pass of a VAE, prepared on a device that holds its parameters.
pub(super) struct Pass {
    program: ProgramId,
    batch: usize,
    dimensions: usize,
    seed: u64,
}

impl Pass {
    fn recorded(config: &Config, n: usize) -> Recorded {
        let model = model(config);
        let source = NoiseSource::Streams(EVAL_STREAM);
        eval_pass(&model, config.data.num_x_bits, n, source)
    }

    /// The parameters and statistics that it reads, encoder included.
    pub(super) fn params(config: &Config) -> Vec<ParamSpec> {
        Self::recorded(config, 1).params
    }

    /// Prepares it for batches of so many images.
    ///
    /// # Errors
    /// A batch that does not fit in memory.
    pub(super) fn prepare(
        config: &Config,
        device: &mut dyn Device,
        batch: usize,
    ) -> Result<Self, TrainError> {
        let plan = |n: usize| Self::recorded(config, n).tape.plan("eval/likelihood");
        let plan = plan_within(plan, batch, device.available_bytes())?;
        Ok(Pass {
            program: device.prepare(plan)?,
            batch,
            dimensions: loss_dimensions(&model(config)),
            seed: config.run.seed,
        })
    }

    /// The bounds of the first `images` images of a set, whose batches are of this size, with `samples` importance samples each.
    /// `None` if it was asked to stop.
    ///
    /// # Errors
    /// Images that cannot be read, likelihoods that are not finite.
    pub(super) fn over(
        &self,
        device: &mut dyn Device,
        set: &Images,
        images: usize,
        samples: u32,
        observer: &mut dyn Observer,
        stop: &StopFlag,
    ) -> Result<Option<Likelihood>, TrainError> {
        let (program, batch) = (self.program, self.batch);
        let mut likelihood = Likelihood::new(self.dimensions);
        for index in 0..images.div_ceil(batch) {
            let (x, valid) = set.evaluation(index)?;
            let valid = valid.min(images - index * batch);
            device.feed(program, "x", &x)?;
            let mut part = Likelihood::new(self.dimensions);
            for pass in 0..samples {
                if stop.is_requested() {
                    return Ok(None);
                }
                let noise = Noise {
                    seed: self.seed,
                    step: pass,
                    first_sample: (index * batch) as u64,
                };
                device.run(program, noise)?;
                let mut values = |name: &str| -> Result<Vec<f64>, TrainError> {
                    let all = device.fetch(program, name)?;
                    Ok(all[..valid].iter().map(|v| f64::from(*v)).collect())
                };
                part.add_pass(&values("recon_loss")?, &values("kl")?, &values("log_iw")?);
            }
            let Estimate { nelbo, log_p, .. } = part.estimate();
            if !(nelbo.is_finite() && log_p.is_finite()) {
                return Err(TrainError::Mismatch(format!(
                    "the likelihood of images {} to {} is not finite: this model has diverged in training, or its batch-norm \
                     statistics are those of too few steps",
                    index * batch,
                    index * batch + valid - 1
                )));
            }
            likelihood.append(part);
            observer.event(Event::Step {
                step: likelihood.images() as u64,
                scalars: &[("nelbo", nelbo), ("log_p", log_p)],
            });
        }
        Ok(Some(likelihood))
    }

    /// Frees it.
    pub(super) fn release(self, device: &mut dyn Device) {
        device.release(self.program);
    }
}

fn model(config: &Config) -> Nvae {
    Nvae::new(config.vae.clone(), config.data.size, config.data.channels)
}

/// Measures held-out images under the VAE of a stage-1 checkpoint, in evaluation mode (SPEC section 4, "Eval").
///
/// `None` if it was asked to stop.
///
/// # Errors
/// A checkpoint without encoder, images that do not fit, likelihoods that are not finite.
pub fn measure(
    config: &Config,
    device: &mut dyn Device,
    checkpoint: &Checkpoint,
    splits: &Splits,
    settings: Settings,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Option<Evidence>, TrainError> {
    if checkpoint.header().stage != Stage::Vae.name() {
        return Err(TrainError::Mismatch(format!(
            "{} is a checkpoint of stage `{}`, which keeps the decoder alone: likelihoods need the encoder of a stage-1 checkpoint",
            checkpoint.path().display(),
            checkpoint.header().stage
        )));
    }
    let images = match settings.images {
        0 => splits.valid.len(),
        n => n.min(splits.valid.len()),
    };
    let batch = settings.batch.min(images);
    let set = Images::new(splits.valid.clone(), config, batch, Stage::Vae)?;
    StateList::restore_params(device, checkpoint, VAE, &Pass::params(config))?;
    let pass = Pass::prepare(config, device, batch)?;
    let started = Instant::now();
    observer.event(Event::PhaseStarted {
        name: "measuring likelihood",
        total: Some(images as u64),
        done: 0,
    });
    let measured = pass.over(device, &set, images, settings.samples, observer, stop);
    let dimensions = pass.dimensions;
    pass.release(device);
    let Some(likelihood) = measured? else {
        return Ok(None);
    };
    let seconds = started.elapsed().as_secs_f64();
    observer.event(Event::PhaseEnded { seconds });
    Ok(Some(Evidence {
        estimate: likelihood.estimate(),
        importance_samples: settings.samples,
        images,
        dimensions,
        decoder: config.vae.decoder,
        num_x_bits: config.data.num_x_bits,
        step: checkpoint.header().step,
        seed: config.run.seed,
        seconds,
    }))
}

impl Evidence {
    /// The figures for people.
    pub fn text(&self) -> String {
        let e = &self.estimate;
        let mut text = format!(
            "{:<34}{:>16}{:>12}{:>12}\n",
            "", "nats / image", "+-", "bits / dim"
        );
        for (name, nats, error, bits) in [
            ("-ELBO", e.nelbo, e.nelbo_error, e.bpd_elbo),
            (
                "-log p(x), importance-weighted",
                -e.log_p,
                e.log_p_error,
                e.bpd_log_p,
            ),
        ] {
            text += &format!("{name:<34}{nats:>16.4}{error:>12.4}{bits:>12.4}\n");
        }
        text += &format!(
            "\n{} held-out images of {} dimensions, {} importance samples each; +- is the standard error over images.\n",
            self.images, self.dimensions, self.importance_samples
        );
        if self.decoder == Decoder::Normal {
            text += "The Normal decoder gives densities of images in [-1, 1], not probabilities of pixel values: figures compare with\n\
                     those of other Normal decoders only, and may be negative.\n";
        }
        text
    }
}
