//! A trained run against its own VAE and against held-out data: the same number of images each, one yardstick, one picture.

use std::sync::Arc;
use std::time::Instant;

use super::classifier::{Classifier, Labels, Training};
use super::quality::{FEWEST, Quality, Yardstick};
use crate::checkpoint::Checkpoint;
use crate::config::{Config, Data, DataSet, PixelRange};
use crate::data::picture::{Contrast, GridOptions, Picture};
use crate::data::{Dataset, ImageShape, Splits, read_f32};
use crate::device::Device;
use crate::langevin::programs::{Chains, EBM};
use crate::langevin::sampler::Sampler;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Event, Observer, StopFlag};
use crate::train::vae::image_shape;
use crate::train::{StateList, TrainError, images, restore_decoder};

/// Training images that the Fréchet distance is measured to.
const REFERENCE: usize = 10_000;
/// Held-out images whose distances to training images are what samples' are compared with.
const HELD_OUT: usize = 3000;
/// Chains that are sampled together.
const BATCH: usize = 100;
/// Images of each kind in the picture.
const SHOWN: usize = 36;
/// Steps of one chain in the picture.
const PATH: usize = 9;

/// The seed's offset for sampling, so that no chain repeats one of the training.
const SAMPLING_SEED: u64 = 0x5a3d;

/// Samples of both models from the same starting noise.
pub(super) struct Samples {
    vae: Vec<f32>,
    pub(super) vaebm: Vec<f32>,
    path: Vec<f32>,
}

/// Figures of data, VAE and VAEBM.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Held-out data.
    pub data: Quality,
    /// The VAE.
    pub vae: Quality,
    /// The VAEBM.
    pub vaebm: Quality,
    /// Images of held-out data, fewer than samples where the set has no more.
    pub held_out: usize,
    /// Images of each set behind precision, recall, density and coverage.
    pub compared: usize,
    /// The classifier's accuracy on held-out images.
    pub accuracy: f64,
}

/// What is measured.
pub struct Subject<'a> {
    /// The run's configuration; its sampling settings count.
    pub config: &'a Config,
    /// A checkpoint of stage 2.
    pub checkpoint: &'a Checkpoint,
    /// Samples of each model.
    pub count: usize,
}

/// A set's images and the yardstick made from them: all runs on that set can be measured with it, one after the other.
pub struct Gauge {
    /// The classifier's own, so that runs of other architectures do not meet on it.
    pub(super) device: Box<dyn Device>,
    data: Data,
    pub(super) splits: Splits,
    pub(super) yardstick: Yardstick,
    /// What making it took.
    pub seconds: f64,
}

impl Gauge {
    /// Opens a configuration's set, trains the classifier on it and measures the features of training images.
    ///
    /// # Errors
    /// Sets without labels, and whatever the device or the files report.
    pub fn new(config: &Config, observer: &mut dyn Observer) -> Result<Self, TrainError> {
        let clock = Instant::now();
        let splits = images::open(config)?;
        let mut device = config.run.open_device()?;
        let yardstick = yardstick(config, &mut *device, &splits, observer)?;
        Ok(Gauge {
            device,
            data: config.data.clone(),
            splits,
            yardstick,
            seconds: clock.elapsed().as_secs_f64(),
        })
    }

    /// Draws samples of both models on `device`, measures them and held-out data, and paints the picture.
    ///
    /// `None` if it was asked to stop.
    ///
    /// # Errors
    /// A run on other images than the yardstick's, a checkpoint of another architecture, and whatever the device reports.
    pub fn compare(
        &mut self,
        subject: &Subject<'_>,
        device: &mut dyn Device,
        observer: &mut dyn Observer,
        stop: &StopFlag,
    ) -> Result<Option<(Comparison, Picture)>, TrainError> {
        let Subject {
            config,
            checkpoint,
            count,
        } = *subject;
        self.check(subject)?;
        let Some(samples) = samples(config, device, checkpoint, count, observer, stop)? else {
            return Ok(None);
        };
        let held_out_count = count.min(self.splits.valid.len());
        let held_out = spread(&self.splits.valid, held_out_count)?;
        let compared = self.yardstick.compared(held_out_count);
        let mut measure =
            |images: &[f32]| self.yardstick.measure(&mut *self.device, images, compared);
        let comparison = Comparison {
            data: measure(&held_out)?,
            vae: measure(&samples.vae)?,
            vaebm: measure(&samples.vaebm)?,
            held_out: held_out_count,
            compared,
            accuracy: self.yardstick.classifier().accuracy,
        };
        Ok(Some((comparison, picture(config, &held_out, &samples))))
    }

    /// Refuses what this yardstick cannot measure.
    pub(super) fn check(&self, subject: &Subject<'_>) -> Result<(), TrainError> {
        if subject.config.data != self.data {
            return Err(TrainError::Mismatch(format!(
                "{}: its [data] differs from that of the run before it, and figures of different images do not compare",
                subject.checkpoint.path().display()
            )));
        }
        enough(subject.count)
    }
}

/// Refuses a number of samples that no figure can be made from.
///
/// # Errors
/// Fewer than [`FEWEST`].
pub fn enough(samples: usize) -> Result<(), TrainError> {
    if samples < FEWEST {
        return Err(TrainError::Mismatch(format!(
            "{samples} samples say nothing: figures need at least {FEWEST}, and thousands to be worth something"
        )));
    }
    Ok(())
}

/// Trains the classifier on a configuration's set and measures the features of training and held-out images.
fn yardstick(
    config: &Config,
    device: &mut dyn Device,
    splits: &Splits,
    observer: &mut dyn Observer,
) -> Result<Yardstick, TrainError> {
    let labels = Labels::of(config, &splits.train).ok_or_else(|| {
        TrainError::Mismatch(format!(
            "the set `{}` has no labels, and the classifier that measures samples needs them",
            config.data.dataset
        ))
    })?;
    let fewest = splits.train.len().min(splits.valid.len());
    if fewest < FEWEST {
        return Err(TrainError::Mismatch(format!(
            "the set `{}` has {} training and {} held-out images, and figures need at least {FEWEST} of each",
            config.data.dataset,
            splits.train.len(),
            splits.valid.len()
        )));
    }
    let training = Training::OF_MEASURES;
    let clock = Instant::now();
    observer.event(Event::PhaseStarted {
        name: "training the classifier that measures samples",
        total: Some(training.steps),
        done: 0,
    });
    let classifier = Classifier::train(
        device,
        &splits.train,
        &splits.valid,
        labels,
        training,
        |step, loss| {
            observer.event(Event::Step {
                step,
                scalars: &[("loss", loss)],
            });
        },
    )?;
    observer.event(Event::PhaseEnded {
        seconds: clock.elapsed().as_secs_f64(),
    });
    let count = REFERENCE.min(splits.train.len());
    let reference = spread(&splits.train, count)?;
    let held_out = spread(&splits.valid, HELD_OUT.min(splits.valid.len()))?;
    let law = law(config, labels, &splits.train);
    Yardstick::new(device, classifier, &reference, &held_out, law)
}

/// The data's probability of each mode: even by construction for the built-in sets, else as often as in the training images.
fn law(config: &Config, labels: Labels, train: &Arc<dyn Dataset>) -> Vec<f64> {
    let modes = labels.modes();
    if matches!(
        config.data.dataset,
        DataSet::StackedGlyphs | DataSet::Glyphs
    ) {
        return vec![1.0 / modes as f64; modes];
    }
    let mut counts = vec![0.0; modes];
    let found = (0..train.len()).filter_map(|item| train.label(item));
    found.for_each(|label| counts[label as usize] += 1.0);
    counts.iter().map(|c| c / train.len() as f64).collect()
}

/// Images from all over a set: files are often sorted, and the first half of MNIST's test images is cleaner than the second.
fn spread(set: &Arc<dyn Dataset>, count: usize) -> Result<Vec<f32>, TrainError> {
    let items: Vec<usize> = (0..count).map(|i| i * set.len() / count).collect();
    Ok(read_f32(&**set, &items)?)
}

/// Draws from both models: VAE samples are the chains' starting points.
pub(super) fn samples(
    config: &Config,
    device: &mut dyn Device,
    checkpoint: &Checkpoint,
    count: usize,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Option<Samples>, TrainError> {
    restore_decoder(config, device, checkpoint, observer, stop)?;
    let clock = Instant::now();
    observer.event(Event::PhaseStarted {
        name: "sampling",
        total: Some(count as u64),
        done: 0,
    });
    let batch = BATCH.min(count);
    let chains = Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: batch,
        target: config.sample.target,
        temperature: config.sample.temperature,
    };
    StateList::restore_params(device, checkpoint, EBM, &chains.params().1)?;
    let sampler = Sampler::new(device, chains)?;
    let s = &config.sample;
    let values = image_shape(&sampler.chains().model).values();
    let mut samples = Samples {
        vae: Vec::new(),
        vaebm: Vec::new(),
        path: Vec::new(),
    };
    for first in (0..count).step_by(batch) {
        if stop.is_requested() {
            sampler.release(device);
            return Ok(None);
        }
        let noise = Noise {
            seed: config.run.seed ^ SAMPLING_SEED,
            step: 0,
            first_sample: first as u64,
        };
        sampler.start(device, noise)?;
        samples.vae.extend(sampler.images(device, s.image)?.images);
        if first == 0 {
            samples.path.extend(&samples.vae[..values]);
            for stretch in path_steps(s.num_steps).windows(2) {
                let noise = Noise {
                    step: stretch[0] as u32,
                    ..noise
                };
                let steps = (stretch[1] - stretch[0]) as u32;
                sampler.advance(device, noise, steps, s.step_size)?;
                samples
                    .path
                    .extend(&sampler.images(device, s.image)?.images[..values]);
            }
        } else {
            sampler.advance(device, noise, s.num_steps as u32, s.step_size)?;
        }
        samples
            .vaebm
            .extend(sampler.images(device, s.image)?.images);
        observer.event(Event::Step {
            step: (first + batch) as u64,
            scalars: &[],
        });
    }
    sampler.release(device);
    observer.event(Event::PhaseEnded {
        seconds: clock.elapsed().as_secs_f64(),
    });
    for images in [&mut samples.vae, &mut samples.vaebm] {
        images.truncate(count * values);
        if s.pixel_range == PixelRange::PerImage {
            stretch(images, values);
        }
    }
    Ok(Some(samples))
}

/// The steps of a chain that are shown: the first, the last, and evenly between them, [`PATH`] in all where there are so many.
fn path_steps(steps: usize) -> Vec<usize> {
    let parts = steps.min(PATH - 1);
    (0..=parts).map(|i| i * steps / parts.max(1)).collect()
}

/// Replaces each image by what the published script saves of it: stretched from its own minimum to its own maximum, in 8 bits.
fn stretch(images: &mut [f32], values: usize) {
    for image in images.chunks_exact_mut(values) {
        let bytes = Contrast::MinMaxPerImage.to_bytes(image);
        for (value, byte) in image.iter_mut().zip(bytes) {
            *value = f32::from(byte) / 255.0;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::{path_steps, stretch};

    #[test]
    fn a_chain_is_shown_at_nine_steps_if_it_has_them() {
        assert_eq!(path_steps(0), [0]);
        assert_eq!(path_steps(3), [0, 1, 2, 3]);
        assert_eq!(path_steps(8), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(path_steps(10), [0, 1, 2, 3, 5, 6, 7, 8, 10]);
        assert_eq!(path_steps(16), [0, 2, 4, 6, 8, 10, 12, 14, 16]);
    }

    #[test]
    fn each_image_is_stretched_on_its_own() {
        let mut images = [0.25, 0.5, 0.75, -1.0, 0.0, 3.0];
        stretch(&mut images, 3);
        assert_eq!(images, [0.0, 128.0 / 255.0, 1.0, 0.0, 64.0 / 255.0, 1.0]);
    }
}
