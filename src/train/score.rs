//! Which checkpoint of stage 2 is the best, without eyes: chain ends from a fixed noise set, measured against held-out images.
//!
//! The score is the Fréchet distance between features of chain ends and of held-out images; lower is better. The features are those of
//! a small classifier that this engine trains once, on the run's own training images, and keeps in the run folder with the features of
//! the held-out images: a resumed run takes both from there and scores bit for bit as one that was not interrupted. Noise is a
//! function of seed, stream and element, so scoring takes none from training.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::TrainError;
use crate::checkpoint::{Checkpoint, CheckpointError, Header, NamedTensor, write};
use crate::config::Config;
use crate::data::{Dataset, Splits, Spread, Turned, read_f32};
use crate::device::Device;
use crate::eval::classifier::{Classifier, Labels, Training};
use crate::eval::frechet::Gaussian;
use crate::eval::kernel::kernel_distance;
use crate::run::{Event, Observer};

/// The file in the run folder.
pub(super) const FILE: &str = "scorer.safetensors";
/// What its header calls its stage.
const KIND: &str = "scorer";
/// Held-out images that scores compare with, from all over the set.
const REFERENCE: usize = 2000;
/// Training images that the digest reads.
const READ: usize = 200;
/// The tensor with their features.
const FEATURES: &str = "reference.features";
/// The seed's offset for scoring, so that its chains are none of training's and none of a later evaluation's.
pub(super) const SEED: u64 = 0x5c04e;

/// Header entries.
const DIGEST: &str = "scorer_digest";
const BEST: &str = "best_score";
const BEST_STEP: &str = "best_step";
const STALE: &str = "scores_since_best";

/// A measure of samples.
pub(super) struct Scorer {
    classifier: Classifier,
    /// Of the held-out images, `[n, width]`.
    reference: Vec<f32>,
    gaussian: Gaussian,
    digest: u64,
}

/// What chain ends measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    /// Fréchet distance to held-out images.
    pub frechet: f64,
    /// Kernel distance to them.
    pub kernel: f64,
}

impl Scorer {
    /// Takes up the classifier that `path` keeps, if it is one for these images, or trains one and keeps it there. Sets without labels
    /// are learnt by their quarter turns.
    ///
    /// # Errors
    /// Images that cannot be read, a file that cannot be written, and whatever the device reports.
    pub fn open(
        config: &Config,
        device: &mut dyn Device,
        splits: &Splits,
        path: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let labels = Labels::of(config, &splits.train);
        let task = |set: &Arc<dyn Dataset>| match labels {
            Some(_) => set.clone(),
            None => Turned::of(set.clone()),
        };
        let (train, valid) = (task(&splits.train), task(&splits.valid));
        let labels = labels.unwrap_or(Labels {
            heads: 1,
            classes: 4,
        });
        let held_out = all_of(&Spread::over(splits.valid.clone(), REFERENCE))?;
        let digest = digest(labels, splits, &held_out)?;
        match Checkpoint::open(path) {
            Ok(file) if file.header().ints.get(DIGEST) == Some(&digest) => {
                match Self::load(device, &file, &train, labels, digest) {
                    Ok(scorer) => return Ok(scorer),
                    Err(error) => observer.event(Event::Message(&format!(
                        "{error}: the classifier that scores samples is trained anew"
                    ))),
                }
            }
            Ok(_) => observer.event(Event::Message(&format!(
                "{} was made with other images: the classifier that scores samples is trained anew",
                path.display()
            ))),
            Err(CheckpointError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => observer.event(Event::Message(&format!(
                "{error}: the classifier that scores samples is trained anew"
            ))),
        }
        let clock = Instant::now();
        let training = Training::OF_MEASURES;
        observer.event(Event::PhaseStarted {
            name: "training the classifier that scores samples",
            total: Some(training.steps),
            done: 0,
        });
        let progress = |step: u64, loss: f64| {
            observer.event(Event::Step {
                step,
                scalars: &[("loss", loss)],
            });
        };
        let classifier = Classifier::train(device, &train, &valid, labels, training, progress)?;
        observer.event(Event::PhaseEnded {
            seconds: clock.elapsed().as_secs_f64(),
        });
        let reference = classifier.apply(device, &held_out)?.features;
        let scorer = Self::of(classifier, reference, digest);
        scorer.keep(device, path)?;
        Ok(scorer)
    }

    fn of(classifier: Classifier, reference: Vec<f32>, digest: u64) -> Self {
        Scorer {
            gaussian: Gaussian::fit(&reference, classifier.feature_count()),
            classifier,
            reference,
            digest,
        }
    }

    fn load(
        device: &mut dyn Device,
        file: &Checkpoint,
        train: &Arc<dyn Dataset>,
        labels: Labels,
        digest: u64,
    ) -> Result<Self, TrainError> {
        let classifier = Classifier::load(device, file, train.shape(), labels)?;
        let reference = file.tensor(FEATURES)?.1.to_vec();
        Ok(Self::of(classifier, reference, digest))
    }

    fn keep(&self, device: &mut dyn Device, path: &Path) -> Result<(), TrainError> {
        let states = self.classifier.states();
        let mut data = Vec::with_capacity(states.len());
        for (name, _) in &states {
            data.push(device.read_state(name)?);
        }
        let mut tensors: Vec<NamedTensor<'_>> = (states.iter().zip(&data))
            .map(|((name, shape), data)| NamedTensor {
                name,
                shape: shape.dims(),
                data,
            })
            .collect();
        let width = self.classifier.feature_count();
        let shape = [self.reference.len() / width, width];
        tensors.push(NamedTensor {
            name: FEATURES,
            shape: &shape,
            data: &self.reference,
        });
        let header = Header {
            stage: KIND.into(),
            step: Training::OF_MEASURES.steps,
            epoch: 0,
            seed: Training::OF_MEASURES.seed,
            config: String::new(),
            ints: [(DIGEST.to_owned(), self.digest)].into(),
            floats: [("accuracy".to_owned(), self.classifier.accuracy)].into(),
        };
        Ok(write(path, &header, &tensors)?)
    }

    /// Measures images `[n, h, w, c]` in `[0, 1]` units. What is not finite scores infinitely badly.
    pub fn score(&self, device: &mut dyn Device, images: &[f32]) -> Result<Score, TrainError> {
        if !images.iter().all(|v| v.is_finite()) {
            return Ok(Score {
                frechet: f64::INFINITY,
                kernel: f64::INFINITY,
            });
        }
        let width = self.classifier.feature_count();
        let features = self.classifier.apply(device, images)?.features;
        Ok(Score {
            frechet: Gaussian::fit(&features, width).distance(&self.gaussian),
            kernel: kernel_distance(&features, &self.reference, width).mean,
        })
    }
}

fn all_of(set: &Arc<dyn Dataset>) -> Result<Vec<f32>, TrainError> {
    let items: Vec<usize> = (0..set.len()).collect();
    Ok(read_f32(&**set, &items)?)
}

/// What tells whether a kept classifier is one for these images: its task and training, and a CRC-32 of the held-out images and of
/// some training images.
fn digest(labels: Labels, splits: &Splits, held_out: &[f32]) -> Result<u64, TrainError> {
    let task = format!(
        "{labels:?} {:?} {} {} {:?}",
        Training::OF_MEASURES,
        splits.train.len(),
        splits.valid.len(),
        splits.train.shape()
    );
    let some = all_of(&Spread::over(splits.train.clone(), READ))?;
    let mut crc = flate2::Crc::new();
    crc.update(task.as_bytes());
    crc.update(bytemuck::cast_slice(held_out));
    crc.update(bytemuck::cast_slice(&some));
    Ok(u64::from(crc.sum()))
}

/// Where a run's scores stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Standing {
    best: f64,
    /// The step of the best score; 0 before there is one.
    pub best_step: u64,
    /// Scores since then.
    stale: u64,
    /// Of the scorer that gave them.
    digest: u64,
}

impl Standing {
    /// No score yet.
    pub const NONE: Standing = Standing {
        best: f64::INFINITY,
        best_step: 0,
        stale: 0,
        digest: 0,
    };

    /// As a checkpoint tells.
    pub fn read(header: &Header) -> Self {
        let int = |name: &str| header.ints.get(name).copied().unwrap_or(0);
        Standing {
            best: header.floats.get(BEST).copied().unwrap_or(f64::INFINITY),
            best_step: int(BEST_STEP),
            stale: int(STALE),
            digest: int(DIGEST),
        }
    }

    /// Writes it into a header, if there was a score.
    pub fn note(&self, header: &mut Header) {
        if *self == Self::NONE {
            return;
        }
        header.floats.insert(BEST.into(), self.best);
        for (name, value) in [
            (BEST_STEP, self.best_step),
            (STALE, self.stale),
            (DIGEST, self.digest),
        ] {
            header.ints.insert(name.into(), value);
        }
    }

    /// Whether scores of another scorer stand here, which this one's do not compare with.
    pub fn is_foreign(&self, scorer: &Scorer) -> bool {
        ![0, scorer.digest].contains(&self.digest)
    }

    /// Takes a score in; tells whether it is the best so far. One that is no number never is.
    pub fn take(&mut self, score: f64, step: u64, scorer: &Scorer) -> bool {
        self.digest = scorer.digest;
        let best = score < self.best;
        (self.best, self.best_step, self.stale) = match best {
            true => (score, step, 0),
            false => (self.best, self.best_step, self.stale + 1),
        };
        best
    }

    /// Whether so many scores in succession were no better; a patience of 0 never ends.
    pub fn is_spent(&self, patience: u64) -> bool {
        patience > 0 && self.stale >= patience
    }
}
