//! The images of a run, from its configuration: splits, batches, and what stage 1 does to their bits.

use std::sync::Arc;

use super::TrainError;
use crate::config::{self, Config, Decoder};
use crate::data::{self, BatchOptions, Batcher, Dataset, ImageShape, Source, Splits, Validation};
use crate::ops::decoder::reduce_bits;

/// Training images that a built-in or stacked set draws unless the configuration says otherwise.
const DEFAULT_DRAWS: usize = 60_000;
/// Held-out images of a built-in set.
const HELD_OUT: usize = 10_000;

/// The published cut of aligned CelebA images: 148x148 pixels (SPEC section 8).
const CELEBA_BOX: data::Crop = data::Crop::Box {
    left: 15,
    top: 40,
    right: 163,
    bottom: 188,
};

/// Opens the set that a configuration names, padded to the size that the model sees and grained.
pub fn open(config: &Config) -> Result<Splits, TrainError> {
    let d = &config.data;
    let path = || {
        d.path.clone().ok_or_else(|| {
            TrainError::Mismatch(format!(
                "the set `{}` is read from files: say where they are with --data-path or `path` in [data]",
                d.dataset
            ))
        })
    };
    let draws = if d.draws > 0 { d.draws } else { DEFAULT_DRAWS };
    // The images of a generated set are part of the task, not of the run: they do not depend on the run's seed.
    let seed = 0;
    let (held_out, validation) = match d.valid {
        0 => (HELD_OUT, Validation::Published),
        n => (n, Validation::Last(n)),
    };
    let source = match d.dataset {
        config::DataSet::StackedGlyphs => Source::StackedGlyphs {
            seed,
            train_items: draws,
            held_out_items: held_out,
        },
        config::DataSet::Glyphs => Source::Glyphs {
            seed,
            train_items: draws,
            held_out_items: held_out,
        },
        config::DataSet::Mnist | config::DataSet::FashionMnist => Source::Mnist { dir: path()? },
        config::DataSet::StackedMnist => Source::StackedMnist {
            dir: path()?,
            seed,
            train_items: draws,
        },
        config::DataSet::Cifar10 => Source::Cifar10 { path: path()? },
        config::DataSet::Images => Source::PngFolder {
            dir: path()?,
            size: d.size,
            channels: d.channels,
            crop: match d.crop {
                config::Crop::Center => data::Crop::Centre,
                config::Crop::Celeba => CELEBA_BOX,
                config::Crop::Random => data::Crop::Random,
            },
        },
    };
    let splits = source.open(validation)?;
    let pad = padding(splits.train.shape(), config)?;
    let finished = |part: Arc<dyn Dataset>, number: u32| {
        data::Grained::around(data::Padded::around(part, pad), d.grain, seed, number)
    };
    Ok(Splits {
        train: finished(splits.train, 0),
        valid: finished(splits.valid, 1),
        test: splits.test.map(|part| finished(part, 2)),
    })
}

/// How a set is padded to the size that the model sees.
fn padding(shape: ImageShape, config: &Config) -> Result<usize, TrainError> {
    let size = config.data.size;
    let fits = shape.height == shape.width
        && shape.channels == config.data.channels
        && size >= shape.height
        && (size - shape.height).is_multiple_of(2);
    if !fits {
        return Err(TrainError::Mismatch(format!(
            "the set `{}` has images of {}x{} with {} channels, and the configuration says {size}x{size} with {}: set \
             `size` and `channels` in [data]",
            config.data.dataset, shape.height, shape.width, shape.channels, config.data.channels
        )));
    }
    Ok((size - shape.height) / 2)
}

/// Batches of one part of a set.
pub struct Images {
    batcher: Batcher,
    bits: u32,
}

impl Images {
    /// Batches of `batch_size` of a part. `binarise` is for the Bernoulli decoder; `bits` below 8 coarsens every value.
    pub fn new(
        part: Arc<dyn Dataset>,
        config: &Config,
        batch_size: usize,
        stage: config::Stage,
    ) -> Result<Self, TrainError> {
        let vae = stage == config::Stage::Vae;
        let options = BatchOptions {
            batch_size,
            seed: config.run.seed,
            flip: config.data.flip,
            pad: 0,
            binarise: vae && (config.data.binarize || config.vae.decoder == Decoder::Bernoulli),
        };
        Ok(Images {
            batcher: Batcher::new(part, options)?,
            // Stage 2 sees all eight bits, whatever the VAE was trained on (trap 18).
            bits: if vae { config.data.num_x_bits } else { 8 },
        })
    }

    /// Whole batches of an epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.batcher.batches_per_epoch()
    }

    /// Batches of an evaluation, the padded last one included.
    pub fn evaluation_batches(&self) -> usize {
        self.batcher.evaluation_batches()
    }

    /// The batch of training step `step`, from 0.
    pub fn training(&mut self, step: u64) -> Result<Vec<f32>, TrainError> {
        let mut out = vec![0.0; self.batcher.values()];
        let position = self.batcher.position(step)?;
        self.batcher.training_batch(position, &mut out)?;
        self.coarsen(&mut out);
        Ok(out)
    }

    /// An evaluation batch, and how many of its images count.
    pub fn evaluation(&self, batch: usize) -> Result<(Vec<f32>, usize), TrainError> {
        let mut out = vec![0.0; self.batcher.values()];
        let valid = self.batcher.evaluation_batch(batch, &mut out)?;
        self.coarsen(&mut out);
        Ok((out, valid))
    }

    fn coarsen(&self, images: &mut [f32]) {
        images
            .iter_mut()
            .for_each(|v| *v = reduce_bits(*v, self.bits));
    }
}
