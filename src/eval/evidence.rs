//! The likelihood of a data set under a trained VAE: `vaebm likelihood`.

use std::time::Instant;

use serde::Serialize;

use super::likelihood::{Estimate, Likelihood};
use crate::checkpoint::Checkpoint;
use crate::config::{Config, Decoder, Stage};
use crate::data::Splits;
use crate::device::Device;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Event, Observer, StopFlag};
use crate::tape::plan_within;
use crate::train::images::Images;
use crate::train::vae_programs::{EVAL_STREAM, NoiseSource, VAE, eval_pass, loss_dimensions};
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
    let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
    let images = match settings.images {
        0 => splits.valid.len(),
        n => n.min(splits.valid.len()),
    };
    let batch = settings.batch.min(images);
    let set = Images::new(splits.valid.clone(), config, batch, Stage::Vae)?;
    let source = NoiseSource::Streams(EVAL_STREAM);
    let record = |n: usize| eval_pass(&model, config.data.num_x_bits, n, source);
    StateList::restore_params(device, checkpoint, VAE, &record(1).params)?;
    let plan = |n: usize| record(n).tape.plan("eval/likelihood");
    let plan = plan_within(plan, batch, device.available_bytes())?;
    let program = device.prepare(plan)?;
    let started = Instant::now();
    observer.event(Event::PhaseStarted {
        name: "measuring likelihood",
        total: Some(images as u64),
        done: 0,
    });
    let dimensions = loss_dimensions(&model);
    let mut likelihood = Likelihood::new(dimensions);
    for index in 0..images.div_ceil(batch) {
        let (x, valid) = set.evaluation(index)?;
        let valid = valid.min(images - index * batch);
        device.feed(program, "x", &x)?;
        let mut part = Likelihood::new(dimensions);
        for pass in 0..settings.samples {
            if stop.is_requested() {
                device.release(program);
                return Ok(None);
            }
            let noise = Noise {
                seed: config.run.seed,
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
    device.release(program);
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
