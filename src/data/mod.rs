//! Images to train on and to look at: readers, the built-in procedural sets, batches and picture writing.
//!
//! A [`Dataset`] gives images as 8-bit NHWC pixels in a fixed order. A [`Batcher`] turns it into the f32 batches in
//! [0, 1] that a step is fed with. Both are pure functions of their settings and of an index, so a resumed run reads on
//! exactly where it stopped.

pub mod arrays;
mod batch;
mod cifar;
mod error;
pub mod export;
mod font;
mod glyphs;
mod grained;
mod idx;
mod npz;
mod padded;
pub mod picture;
mod png_folder;
mod resize;
mod spread;
mod stacked;
mod turned;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

pub use batch::{BatchOptions, Batcher, Position, shuffled};
pub use error::DataError;
pub use glyphs::{GLYPH_CLASSES, GLYPH_SIZE, Glyphs};
pub use grained::Grained;
pub use padded::Padded;
pub use png_folder::{Crop, PngFolder};
pub use spread::Spread;
pub use stacked::Stacked;
pub use turned::Turned;

/// The shape of one image, stored row by row, channels innermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
}

impl ImageShape {
    /// The number of values of one image.
    pub fn values(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// A finite, ordered set of equally shaped images.
pub trait Dataset: Send + Sync {
    /// The number of items.
    fn len(&self) -> usize;

    /// True for a set without items; readers refuse such sets.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of every item.
    fn shape(&self) -> ImageShape;

    /// How many classes the labels count, `None` for a set without labels.
    fn classes(&self) -> Option<u32>;

    /// The label of `item`, below [`Dataset::classes`]; `None` for a set without labels.
    fn label(&self, item: usize) -> Option<u32>;

    /// Writes the pixels of `item` to `out`, which has `shape().values()` bytes.
    ///
    /// # Errors
    ///
    /// Sets that read their files on demand fail here when a file has become unreadable or is damaged.
    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError>;

    /// As [`Dataset::read`], for training: a set that cuts its pictures anew each time takes the place from `draw`, a
    /// random word. Others have one image of an item, and give that.
    ///
    /// # Errors
    ///
    /// As [`Dataset::read`].
    fn read_training(&self, item: usize, draw: u32, out: &mut [u8]) -> Result<(), DataError> {
        let _ = draw;
        self.read(item, out)
    }
}

/// A set held in memory.
pub struct Pixels {
    shape: ImageShape,
    /// Items back to back.
    pixels: Vec<u8>,
    labels: Option<Vec<u8>>,
    classes: Option<u32>,
}

impl Pixels {
    /// Labels are given with the number of classes. Readers check sizes and labels, with the file's name, before they
    /// come here.
    fn new(shape: ImageShape, pixels: Vec<u8>, labels: Option<(Vec<u8>, u32)>) -> Pixels {
        debug_assert_eq!(pixels.len() % shape.values(), 0);
        let (labels, classes) = labels.unzip();
        Pixels {
            shape,
            pixels,
            labels,
            classes,
        }
    }
}

impl Dataset for Pixels {
    fn len(&self) -> usize {
        self.pixels.len() / self.shape.values()
    }

    fn shape(&self) -> ImageShape {
        self.shape
    }

    fn classes(&self) -> Option<u32> {
        self.classes
    }

    fn label(&self, item: usize) -> Option<u32> {
        self.labels.as_ref().map(|labels| u32::from(labels[item]))
    }

    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        let values = self.shape.values();
        out.copy_from_slice(&self.pixels[item * values..(item + 1) * values]);
        Ok(())
    }
}

/// A contiguous part of another set.
pub struct Subset {
    base: Arc<dyn Dataset>,
    items: Range<usize>,
}

impl Subset {
    /// The items `items` of `base`, counted anew from 0.
    ///
    /// # Panics
    ///
    /// Where the range does not lie inside `base`.
    pub fn new(base: Arc<dyn Dataset>, items: Range<usize>) -> Subset {
        assert!(
            items.start <= items.end && items.end <= base.len(),
            "items {items:?} of {}",
            base.len()
        );
        Subset { base, items }
    }

    fn item(&self, item: usize) -> usize {
        assert!(
            item < self.items.len(),
            "item {item} of {}",
            self.items.len()
        );
        self.items.start + item
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.items.len()
    }

    fn shape(&self) -> ImageShape {
        self.base.shape()
    }

    fn classes(&self) -> Option<u32> {
        self.base.classes()
    }

    fn label(&self, item: usize) -> Option<u32> {
        self.base.label(self.item(item))
    }

    fn read(&self, item: usize, out: &mut [u8]) -> Result<(), DataError> {
        self.base.read(self.item(item), out)
    }

    fn read_training(&self, item: usize, draw: u32, out: &mut [u8]) -> Result<(), DataError> {
        self.base.read_training(self.item(item), draw, out)
    }
}

/// Reads the given items, in parallel, as f32 in [0, 1], back to back in the order of `items`.
///
/// # Errors
///
/// The first item that cannot be read.
pub fn read_f32(set: &dyn Dataset, items: &[usize]) -> Result<Vec<f32>, DataError> {
    let values = set.shape().values();
    let mut out = vec![0.0; items.len() * values];
    out.par_chunks_mut(values).zip(items).try_for_each_init(
        || vec![0; values],
        |pixels, (out, &item)| {
            set.read(item, pixels)?;
            for (out, &pixel) in out.iter_mut().zip(pixels.iter()) {
                *out = f32::from(pixel) / 255.0;
            }
            Ok(())
        },
    )?;
    Ok(out)
}

/// Where images come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// MNIST or Fashion-MNIST: a folder with the four IDX files, gzipped or not.
    Mnist {
        /// The folder.
        dir: PathBuf,
    },
    /// Three MNIST digits in the three colour channels: 1,000 classes.
    StackedMnist {
        /// The folder with the MNIST files.
        dir: PathBuf,
        /// Chooses the digits.
        seed: u64,
        /// Number of training images; validation and test sets have as many images as their digits.
        train_items: usize,
    },
    /// CIFAR-10 in its binary layout.
    Cifar10 {
        /// The folder with `data_batch_*.bin` and `test_batch.bin`, or one file.
        path: PathBuf,
    },
    /// A folder of PNG files, or one with the folders `train`, `valid` and `test` of such files (the last two optional).
    PngFolder {
        /// The folder.
        dir: PathBuf,
        /// Side of the square images.
        size: usize,
        /// 1 or 3.
        channels: usize,
        /// The part of each picture that is used.
        crop: Crop,
    },
    /// Procedural glyphs, 16x16, one channel, 10 classes.
    Glyphs {
        /// Chooses the images.
        seed: u64,
        /// Number of training images.
        train_items: usize,
        /// Number of images of the validation set and of the test set.
        held_out_items: usize,
    },
    /// Three procedural glyphs in the three colour channels, 16x16: 1,000 classes.
    StackedGlyphs {
        /// Chooses the images.
        seed: u64,
        /// Number of training images.
        train_items: usize,
        /// Number of images of the validation set and of the test set.
        held_out_items: usize,
    },
}

/// The disjoint parts of a set.
#[derive(Clone)]
pub struct Splits {
    /// To fit parameters.
    pub train: Arc<dyn Dataset>,
    /// To choose checkpoints.
    pub valid: Arc<dyn Dataset>,
    /// Seen by neither, where the source has enough for a third part.
    pub test: Option<Arc<dyn Dataset>>,
}

/// How the validation set is made where the files give only a training and perhaps a test part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Validation {
    /// The published test part validates and there is no third part, as in the published experiments; without a test
    /// part as `Tail(0.1)`.
    #[default]
    Published,
    /// The last part of the training items, this fraction of them; a test part stays untouched.
    Tail(f64),
    /// As `Tail`, with the number of items instead.
    Last(usize),
}

impl Source {
    /// Opens the set. Files are checked here, except the contents of PNG files, which are decoded when first read.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the files or the settings, see [`DataError`].
    pub fn open(&self, validation: Validation) -> Result<Splits, DataError> {
        match self {
            Source::Mnist { dir } => {
                let train = idx::read_part(dir, idx::Part::Train)?;
                let test = idx::read_part(dir, idx::Part::Test)?;
                split(Arc::new(train), Some(Arc::new(test)), validation)
            }
            Source::StackedMnist {
                dir,
                seed,
                train_items,
            } => {
                let digits = Source::Mnist { dir: dir.clone() }.open(validation)?;
                // The part number keeps one part from repeating another's choices.
                let stack = |base: Arc<dyn Dataset>,
                             part: u32,
                             items: usize|
                 -> Result<Arc<dyn Dataset>, DataError> {
                    Ok(Arc::new(Stacked::new(base, *seed, part, items)?))
                };
                let valid_items = digits.valid.len();
                Ok(Splits {
                    train: stack(digits.train, 0, *train_items)?,
                    valid: stack(digits.valid, 1, valid_items)?,
                    test: match digits.test {
                        Some(test) => Some(stack(test.clone(), 2, test.len())?),
                        None => None,
                    },
                })
            }
            Source::Cifar10 { path } => {
                let (train, test) = cifar::read(path)?;
                let test = test.map(|test| Arc::new(test) as Arc<dyn Dataset>);
                split(Arc::new(train), test, validation)
            }
            Source::PngFolder {
                dir,
                size,
                channels,
                crop,
            } => {
                let open = |dir: PathBuf| -> Result<Arc<dyn Dataset>, DataError> {
                    Ok(Arc::new(PngFolder::open(&dir, *size, *channels, *crop)?))
                };
                let part = |name: &str| {
                    let dir = dir.join(name);
                    dir.is_dir().then(|| open(dir)).transpose()
                };
                match (part("train")?, part("valid")?, part("test")?) {
                    (Some(train), Some(valid), test) => Ok(Splits { train, valid, test }),
                    (Some(train), None, test) => split(train, test, validation),
                    (None, _, _) => split(open(dir.clone())?, None, validation),
                }
            }
            Source::Glyphs {
                seed,
                train_items,
                held_out_items,
            } => glyph_splits(1, *seed, *train_items, *held_out_items),
            Source::StackedGlyphs {
                seed,
                train_items,
                held_out_items,
            } => glyph_splits(3, *seed, *train_items, *held_out_items),
        }
    }
}

fn split(
    train: Arc<dyn Dataset>,
    test: Option<Arc<dyn Dataset>>,
    validation: Validation,
) -> Result<Splits, DataError> {
    let items = train.len();
    let part = |fraction: f64| (items as f64 * fraction).round() as usize;
    let (held_out, test) = match (validation, test) {
        (Validation::Published, Some(test)) => {
            return Ok(Splits {
                train,
                valid: test,
                test: None,
            });
        }
        (Validation::Published, None) => (part(0.1), None),
        (Validation::Tail(fraction), test) => (part(fraction), test),
        (Validation::Last(held_out), test) => (held_out, test),
    };
    if held_out == 0 || held_out >= items {
        return Err(DataError::Setting(format!(
            "a validation part of {held_out} of {items} training images leaves one of the two empty; \
             use more images or another validation part"
        )));
    }
    let border = items - held_out;
    Ok(Splits {
        train: Arc::new(Subset::new(train.clone(), 0..border)),
        valid: Arc::new(Subset::new(train, border..items)),
        test,
    })
}

fn glyph_splits(
    channels: usize,
    seed: u64,
    train_items: usize,
    held_out_items: usize,
) -> Result<Splits, DataError> {
    if train_items == 0 || held_out_items == 0 {
        return Err(DataError::Setting(format!(
            "a glyph set with {train_items} training and {held_out_items} held-out images; both must be at least 1"
        )));
    }
    let part = |part: u32, items: usize| {
        Arc::new(Glyphs::new(channels, seed, part, items)) as Arc<dyn Dataset>
    };
    Ok(Splits {
        train: part(0, train_items),
        valid: part(1, held_out_items),
        test: Some(part(2, held_out_items)),
    })
}

#[cfg(test)]
mod tests;
