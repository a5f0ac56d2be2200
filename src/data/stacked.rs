//! Stacked sets: three random images of a one-channel set in the three colour channels (StackedMNIST; Metz et al.,
//! "Unrolled generative adversarial networks", ICLR 2017).

use std::sync::Arc;

use super::{DataError, Dataset, ImageShape};
use crate::philox::{self, streams};

/// Ten classes in each of three channels make 1,000.
pub(super) const CHANNEL_CLASSES: u32 = 10;
pub(super) const STACKED_CLASSES: u32 = CHANNEL_CLASSES.pow(3);

/// A stack of three images of `base` per item, chosen uniformly and independently by `(seed, part, item)`.
///
/// The label is `100 red + 10 green + blue`.
pub struct Stacked {
    base: Arc<dyn Dataset>,
    seed: u64,
    part: u32,
    items: usize,
}

impl Stacked {
    /// `part` tells training, validation and test set of one seed apart.
    ///
    /// # Errors
    ///
    /// Where `base` is empty, has not exactly one channel or not ten classes, or `items` is 0.
    pub fn new(
        base: Arc<dyn Dataset>,
        seed: u64,
        part: u32,
        items: usize,
    ) -> Result<Stacked, DataError> {
        let channels = base.shape().channels;
        if channels != 1 || base.classes() != Some(CHANNEL_CLASSES) || base.is_empty() || items == 0
        {
            return Err(DataError::Setting(format!(
                "a stacked set of {items} images over a set of {} images with {channels} channels and {:?} classes; it \
                 needs at least one image, one channel and ten classes",
                base.len(),
                base.classes()
            )));
        }
        Ok(Stacked {
            base,
            seed,
            part,
            items,
        })
    }

    /// The items of the base set in the red, green and blue channel.
    fn sources(&self, item: usize) -> [usize; 3] {
        assert!(item < self.items, "item {item} of {}", self.items);
        let words = philox::words(self.seed, streams::DATA_STACK, self.part, item as u64);
        [0, 1, 2].map(|channel: usize| {
            ((u64::from(words[channel]) * self.base.len() as u64) >> 32) as usize
        })
    }
}

impl Dataset for Stacked {
    fn len(&self) -> usize {
        self.items
    }

    fn shape(&self) -> ImageShape {
        ImageShape {
            channels: 3,
            ..self.base.shape()
        }
    }

    fn classes(&self) -> Option<u32> {
        Some(STACKED_CLASSES)
    }

    fn label(&self, item: usize) -> Option<u32> {
        self.sources(item).into_iter().try_fold(0, |label, source| {
            Some(label * CHANNEL_CLASSES + self.base.label(source)?)
        })
    }

    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        let mut plane = vec![0; self.base.shape().values()];
        for (channel, source) in self.sources(item).into_iter().enumerate() {
            self.base.read(source, &mut plane)?;
            for (pixel, &value) in out.chunks_exact_mut(3).zip(&plane) {
                pixel[channel] = value;
            }
        }
        Ok(())
    }
}
