//! The figures of a set of samples: what the demo and the results print.

use serde::Serialize;

use super::classifier::{Classifier, Verdicts};
use super::frechet::Gaussian;
use super::modes::coverage;
use crate::device::Device;
use crate::train::TrainError;

/// The figures of one set of images.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quality {
    /// Modes covered.
    pub modes: usize,
    /// KL to the data's law over modes, in nats.
    pub kl: f64,
    /// Mean confidence of the classifier.
    pub confidence: f64,
    /// Fréchet distance of classifier features to the reference set.
    pub frechet: f64,
}

/// What sets are measured against: a classifier, the features of reference images, and the law over modes.
pub struct Yardstick {
    classifier: Classifier,
    reference: Gaussian,
    law: Vec<f64>,
}

impl Yardstick {
    /// A yardstick with these reference images `[n, h, w, c]`. `law` is the data's probability of each mode.
    pub fn new(
        device: &mut dyn Device,
        classifier: Classifier,
        reference: &[f32],
        law: Vec<f64>,
    ) -> Result<Self, TrainError> {
        let verdicts = classifier.apply(device, reference)?;
        Ok(Yardstick {
            reference: Gaussian::fit(&verdicts.features, classifier.feature_count()),
            classifier,
            law,
        })
    }

    /// The classifier's accuracy on held-out images.
    pub fn accuracy(&self) -> f64 {
        self.classifier.accuracy
    }

    /// Measures a set of images.
    pub fn measure(&self, device: &mut dyn Device, images: &[f32]) -> Result<Quality, TrainError> {
        Ok(self.judge(&self.classifier.apply(device, images)?))
    }

    fn judge(&self, verdicts: &Verdicts) -> Quality {
        let coverage = coverage(&verdicts.labels, &self.law);
        let confidence: f64 = verdicts.confidence.iter().map(|c| f64::from(*c)).sum();
        let features = Gaussian::fit(&verdicts.features, self.classifier.feature_count());
        Quality {
            modes: coverage.modes,
            kl: coverage.kl,
            confidence: confidence / verdicts.labels.len() as f64,
            frechet: features.distance(&self.reference),
        }
    }
}
