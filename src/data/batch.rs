//! Batches for a step: which items, in which order, and what is done to their pixels.

use std::sync::Arc;

use rayon::prelude::*;

use super::{DataError, Dataset, ImageShape};
use crate::philox::{self, streams};

/// The step under which evaluation draws its binarisation, so that every evaluation sees the same images.
const EVALUATION: u32 = u32::MAX;

/// A random order of `0..items`, the same for the same `(seed, epoch)` everywhere.
///
/// # Panics
///
/// For more than 2^32 items.
pub fn shuffled(items: usize, seed: u64, epoch: u32) -> Vec<u32> {
    let items = u32::try_from(items).expect("a set has at most 2^32 - 1 items");
    let mut order: Vec<u32> = (0..items).collect();
    // Fisher-Yates. One 64-bit draw per place: the bias of the multiplication is below items / 2^64.
    for last in (1..order.len()).rev() {
        let words = philox::words(seed, streams::DATA_SHUFFLE, epoch, last as u64);
        let draw = u128::from(words[0]) << 32 | u128::from(words[1]);
        order.swap(last, ((draw * (last as u128 + 1)) >> 64) as usize);
    }
    order
}

/// How items become batches.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchOptions {
    /// Images per batch.
    pub batch_size: usize,
    /// Chooses order, crops, flips and binarisation.
    pub seed: u64,
    /// Mirror each training image left to right with probability 1/2, anew in every epoch.
    pub flip: bool,
    /// Zeros added on all four sides: 2 makes 28x28 into 32x32.
    pub pad: usize,
    /// Replace each value p by a draw from Bernoulli(p), anew in every epoch; in evaluation always the same draw.
    pub binarise: bool,
}

/// A place in the endless sequence of training batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Counts from 0.
    pub epoch: u32,
    /// Counts from 0 within the epoch.
    pub batch: usize,
}

/// Gives any batch of any epoch, f32 NHWC in [0, 1].
///
/// A batch is a function of the set, the options and its position alone: nothing has to be saved to resume.
pub struct Batcher {
    set: Arc<dyn Dataset>,
    options: BatchOptions,
    /// The order of the epoch asked for last; remade when another is asked for.
    order: Option<(u32, Vec<u32>)>,
}

impl Batcher {
    /// # Errors
    ///
    /// Where the batch size is 0 or the set has no item.
    pub fn new(set: Arc<dyn Dataset>, options: BatchOptions) -> Result<Batcher, DataError> {
        if options.batch_size == 0 {
            return Err(DataError::Setting(
                "a batch size of 0; use at least 1".into(),
            ));
        }
        if set.is_empty() || u32::try_from(set.len()).is_err() {
            return Err(DataError::Setting(format!(
                "a set of {} images; use 1 to 2^32 - 1",
                set.len()
            )));
        }
        Ok(Batcher {
            set,
            options,
            order: None,
        })
    }

    /// The set that the batches come from.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.set
    }

    /// The shape of one image of a batch, padding included.
    pub fn shape(&self) -> ImageShape {
        let ImageShape {
            height,
            width,
            channels,
        } = self.set.shape();
        ImageShape {
            height: height + 2 * self.options.pad,
            width: width + 2 * self.options.pad,
            channels,
        }
    }

    /// The number of values of a batch, `[batch_size, height, width, channels]`.
    pub fn values(&self) -> usize {
        self.options.batch_size * self.shape().values()
    }

    /// Whole training batches in an epoch; what is left over is dropped, other items in every epoch. 0 where the set
    /// is smaller than a batch.
    pub fn batches_per_epoch(&self) -> usize {
        self.set.len() / self.options.batch_size
    }

    /// Batches of an evaluation, the padded last one included.
    pub fn evaluation_batches(&self) -> usize {
        self.set.len().div_ceil(self.options.batch_size)
    }

    /// Where training step `step` (from 0) reads.
    ///
    /// # Errors
    ///
    /// Where the set is smaller than a batch.
    pub fn position(&self, step: u64) -> Result<Position, DataError> {
        let batches = self.batches_per_epoch() as u64;
        if batches == 0 {
            return Err(DataError::Setting(format!(
                "a batch of {} from a training set of {} images; use a smaller batch or more images",
                self.options.batch_size,
                self.set.len()
            )));
        }
        let epoch = u32::try_from(step / batches)
            .ok()
            .filter(|&epoch| epoch != EVALUATION)
            .ok_or_else(|| {
                DataError::Setting(format!(
                    "step {step} lies beyond epoch 2^32; use a larger set"
                ))
            })?;
        Ok(Position {
            epoch,
            batch: (step % batches) as usize,
        })
    }

    /// The items of a training batch.
    ///
    /// # Panics
    ///
    /// Where `position.batch` is not below [`Batcher::batches_per_epoch`].
    pub fn training_items(&mut self, position: Position) -> &[u32] {
        assert!(
            position.batch < self.batches_per_epoch(),
            "{position:?} of {} batches",
            self.batches_per_epoch()
        );
        let remake = self
            .order
            .as_ref()
            .is_none_or(|(epoch, _)| *epoch != position.epoch);
        if remake {
            self.order = None;
        }
        let (len, seed, size) = (self.set.len(), self.options.seed, self.options.batch_size);
        let (_, order) = self
            .order
            .get_or_insert_with(|| (position.epoch, shuffled(len, seed, position.epoch)));
        &order[position.batch * size..(position.batch + 1) * size]
    }

    /// Writes a training batch to `out`, [`Batcher::values`] long, and returns its items.
    ///
    /// # Errors
    ///
    /// Where an item cannot be read.
    ///
    /// # Panics
    ///
    /// As [`Batcher::training_items`], and for an `out` of another length.
    pub fn training_batch(
        &mut self,
        position: Position,
        out: &mut [f32],
    ) -> Result<Vec<u32>, DataError> {
        let items = self.training_items(position).to_vec();
        self.write(&items, Some(position.epoch), out)?;
        Ok(items)
    }

    /// Writes batch `batch` of an evaluation to `out` and returns how many of its images are valid. The items come in
    /// their own order, never flipped; the last batch is filled up by repeating its last item.
    ///
    /// # Errors
    ///
    /// Where an item cannot be read.
    ///
    /// # Panics
    ///
    /// Where `batch` is not below [`Batcher::evaluation_batches`], and for an `out` of another length than
    /// [`Batcher::values`].
    pub fn evaluation_batch(&self, batch: usize, out: &mut [f32]) -> Result<usize, DataError> {
        assert!(
            batch < self.evaluation_batches(),
            "batch {batch} of {}",
            self.evaluation_batches()
        );
        let first = batch * self.options.batch_size;
        let valid = self.options.batch_size.min(self.set.len() - first);
        let items: Vec<u32> = (0..self.options.batch_size)
            .map(|row| (first + row.min(valid - 1)) as u32)
            .collect();
        self.write(&items, None, out)?;
        Ok(valid)
    }

    /// Without an epoch, for evaluation.
    fn write(&self, items: &[u32], epoch: Option<u32>, out: &mut [f32]) -> Result<(), DataError> {
        assert_eq!(out.len(), self.values(), "the length of a batch");
        let values = self.shape().values();
        out.par_chunks_mut(values).zip(items).try_for_each_init(
            || (vec![0; self.set.shape().values()], vec![0.0; values]),
            |(pixels, uniform), (out, &item)| {
                let drawn = |stream: u32, epoch: u32| {
                    philox::word(self.options.seed, stream, epoch, u64::from(item))
                };
                match epoch {
                    Some(epoch) => {
                        let draw = drawn(streams::DATA_CROP, epoch);
                        self.set.read_training(item as usize, draw, pixels)?;
                    }
                    None => self.set.read(item as usize, pixels)?,
                }
                let mirrored = self.options.flip
                    && epoch.is_some_and(|epoch| drawn(streams::DATA_FLIP, epoch) & 1 == 1);
                self.place(pixels, mirrored, out);
                if self.options.binarise {
                    let first = u64::from(item) * values as u64;
                    philox::fill_uniform(
                        uniform,
                        self.options.seed,
                        streams::DATA_BINARISE,
                        epoch.unwrap_or(EVALUATION),
                        first,
                    );
                    for (value, &uniform) in out.iter_mut().zip(uniform.iter()) {
                        *value = if uniform < *value { 1.0 } else { 0.0 };
                    }
                }
                Ok(())
            },
        )
    }

    /// Scales to [0, 1], mirrors and pads one image.
    fn place(&self, pixels: &[u8], mirrored: bool, out: &mut [f32]) {
        let ImageShape {
            width, channels, ..
        } = self.set.shape();
        let pad = self.options.pad;
        out.fill(0.0);
        let out_row = self.shape().width * channels;
        for (row, line) in pixels.chunks_exact(width * channels).enumerate() {
            let start = (row + pad) * out_row + pad * channels;
            let out_line = &mut out[start..start + width * channels];
            for (column, pixel) in line.chunks_exact(channels).enumerate() {
                let to = if mirrored { width - 1 - column } else { column };
                for (out, &value) in out_line[to * channels..].iter_mut().zip(pixel) {
                    *out = f32::from(value) / 255.0;
                }
            }
        }
    }
}
