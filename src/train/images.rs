//! The images of a run, from its configuration: splits, batches, and what stage 1 does to their bits.

use std::sync::Arc;

use super::TrainError;
use crate::config::{self, Config, DataSet, Decoder};
use crate::data::{self, BatchOptions, Batcher, Dataset, ImageShape, Source, Splits, Validation};
use crate::ops::decoder::reduce_bits;

/// Training images that a built-in or stacked set draws unless the configuration says otherwise.
const DEFAULT_DRAWS: usize = 60_000;
/// Held-out images of a built-in set.
const HELD_OUT: usize = 10_000;
/// The images of a generated set, and the grain of any, are part of the task, not of the run: they do not depend on the run's seed.
const SET_SEED: u64 = 0;

/// The published cut of aligned CelebA images: 148x148 pixels (SPEC section 8).
const CELEBA_BOX: data::Crop = data::Crop::Box {
    left: 15,
    top: 40,
    right: 163,
    bottom: 188,
};

/// Opens the set that a configuration names, padded to the size that the model sees and grained.
pub fn open(config: &Config) -> Result<Splits, TrainError> {
    let splits = as_it_is(config)?;
    let (shape, size) = (splits.train.shape(), config.data.size);
    match padding(shape, config) {
        Some(pad) => Ok(finished(splits, pad, config)),
        None => Err(TrainError::Mismatch(format!(
            "the set `{}` has images of {}x{} with {} channels, and the configuration says {size}x{size} with {}: set \
             `size` and `channels` in [data]",
            config.data.dataset, shape.height, shape.width, shape.channels, config.data.channels
        ))),
    }
}

/// As [`open`], of a set that the model was not trained on: the way out is another set, not another model. `given` is what names it.
///
/// # Errors
/// As [`open`]; for images that do not fit, the sets that would.
pub fn open_other(config: &Config, given: &str) -> Result<Splits, TrainError> {
    let splits = as_it_is(config)?;
    let (shape, size, channels) = (splits.train.shape(), config.data.size, config.data.channels);
    if let Some(pad) = padding(shape, config) {
        return Ok(finished(splits, pad, config));
    }
    let fits =
        |set: &DataSet| published_shape(*set).is_some_and(|shape| padding(shape, config).is_some());
    let sets: Vec<&str> = DataSet::ALL
        .iter()
        .filter(|s| fits(s))
        .map(|s| s.name())
        .collect();
    let sets = match sets.is_empty() {
        true => String::new(),
        false => format!("{}, and ", sets.join(", ")),
    };
    Err(TrainError::Mismatch(format!(
        "{given} has images of {}x{} with {} channel(s), and this model takes {size}x{size} with {channels}. Nothing is turned to colour or \
         to grey, or cut, behind your back; what fits is {sets}a folder of PNG files (images:DIR), which are cut to squares, resized and \
         read with {channels} channel(s)",
        shape.height, shape.width, shape.channels
    )))
}

/// The shape of a set's images where it is always the same.
fn published_shape(set: DataSet) -> Option<ImageShape> {
    let (side, channels) = match set {
        DataSet::Glyphs => (data::GLYPH_SIZE, 1),
        DataSet::StackedGlyphs => (data::GLYPH_SIZE, 3),
        DataSet::Mnist | DataSet::FashionMnist => (28, 1),
        DataSet::StackedMnist => (28, 3),
        DataSet::Cifar10 => (32, 3),
        DataSet::Images => return None,
    };
    Some(ImageShape {
        height: side,
        width: side,
        channels,
    })
}

/// The set as its files have it.
fn as_it_is(config: &Config) -> Result<Splits, TrainError> {
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
    let seed = SET_SEED;
    let (held_out, validation) = match d.valid {
        0 => (HELD_OUT, Validation::Published),
        n => (n, Validation::Last(n)),
    };
    let source = match d.dataset {
        DataSet::StackedGlyphs => Source::StackedGlyphs {
            seed,
            train_items: draws,
            held_out_items: held_out,
        },
        DataSet::Glyphs => Source::Glyphs {
            seed,
            train_items: draws,
            held_out_items: held_out,
        },
        DataSet::Mnist | DataSet::FashionMnist => Source::Mnist { dir: path()? },
        DataSet::StackedMnist => Source::StackedMnist {
            dir: path()?,
            seed,
            train_items: draws,
        },
        DataSet::Cifar10 => Source::Cifar10 { path: path()? },
        DataSet::Images => Source::PngFolder {
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
    Ok(source.open(validation)?)
}

/// Every part padded and grained.
fn finished(splits: Splits, pad: usize, config: &Config) -> Splits {
    let grain = config.data.grain;
    let finished = |part: Arc<dyn Dataset>, number: u32| {
        data::Grained::around(data::Padded::around(part, pad), grain, SET_SEED, number)
    };
    Splits {
        train: finished(splits.train, 0),
        valid: finished(splits.valid, 1),
        test: splits.test.map(|part| finished(part, 2)),
    }
}

/// How a set is padded to the size that the model sees; `None` if it does not fit.
fn padding(shape: ImageShape, config: &Config) -> Option<usize> {
    let size = config.data.size;
    let fits = shape.height == shape.width
        && shape.channels == config.data.channels
        && size >= shape.height
        && (size - shape.height).is_multiple_of(2);
    fits.then(|| (size - shape.height) / 2)
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
