//! The figures of a set of samples: what the demo and the results print.

use serde::Serialize;

use super::auroc::auroc;
use super::classifier::{Classifier, Verdicts};
use super::frechet::Gaussian;
use super::kernel::kernel_distance;
use super::manifold::{self, fidelity};
use super::modes::coverage;
use super::neighbours::nearest_distances;
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
    /// Kernel distance of classifier features to the reference set.
    pub kernel: f64,
    /// Half the width of its 95% interval.
    pub kernel_half_width: f64,
    /// Share of images in the sphere of a reference image.
    pub precision: f64,
    /// Share of reference images in the sphere of one of these.
    pub recall: f64,
    /// How many spheres of reference images an image is in, over the neighbours that make one.
    pub density: f64,
    /// Share of reference images with one of these in their sphere.
    pub coverage: f64,
    /// The chance that one of these images is farther from its nearest reference image than a held-out image is from its own: 0.5 is
    /// the data's, less are copies, more is what the data has not.
    pub novelty: f64,
}

/// Fewest images of any kind that figures can be made from.
pub const FEWEST: usize = manifold::FEWEST;
/// Most images of each set that precision, recall, density and coverage are counted on: the work grows with the square.
const MOST: usize = 5000;

/// What sets are measured against: a classifier, the features of reference images and of held-out ones, and the law over modes.
pub struct Yardstick {
    classifier: Classifier,
    /// Of the reference images, `[n, width]`.
    features: Vec<f32>,
    gaussian: Gaussian,
    /// Of each held-out image to its nearest reference image.
    held_out_distances: Vec<f64>,
    law: Vec<f64>,
}

impl Yardstick {
    /// A yardstick with these reference images and held-out images `[n, h, w, c]`, at least [`FEWEST`] of each. `law` is the data's
    /// probability of each mode.
    pub fn new(
        device: &mut dyn Device,
        classifier: Classifier,
        reference: &[f32],
        held_out: &[f32],
        law: Vec<f64>,
    ) -> Result<Self, TrainError> {
        let width = classifier.feature_count();
        let features = classifier.apply(device, reference)?.features;
        let held_out = classifier.apply(device, held_out)?.features;
        Ok(Yardstick {
            gaussian: Gaussian::fit(&features, width),
            held_out_distances: nearest_distances(&held_out, &features, width),
            features,
            classifier,
            law,
        })
    }

    /// The classifier.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// Images of each set that precision, recall, density and coverage are counted on, where the smallest set measured has `images`.
    pub fn compared(&self, images: usize) -> usize {
        let reference = self.features.len() / self.classifier.feature_count();
        images.min(reference).min(MOST)
    }

    /// Measures a set of at least [`FEWEST`] images; the four shares of neighbours are counted on `compared` of them.
    pub fn measure(
        &self,
        device: &mut dyn Device,
        images: &[f32],
        compared: usize,
    ) -> Result<Quality, TrainError> {
        Ok(self.judge(&self.classifier.apply(device, images)?, compared))
    }

    fn judge(&self, verdicts: &Verdicts, compared: usize) -> Quality {
        let width = self.classifier.feature_count();
        let coverage = coverage(&verdicts.labels, &self.law);
        let confidence: f64 = verdicts.confidence.iter().map(|c| f64::from(*c)).sum();
        let features = &verdicts.features;
        let kernel = kernel_distance(features, &self.features, width);
        let fidelity = fidelity(
            &spread_rows(&self.features, width, compared),
            &spread_rows(features, width, compared),
            width,
        );
        let distances = nearest_distances(features, &self.features, width);
        Quality {
            modes: coverage.modes,
            kl: coverage.kl,
            confidence: confidence / verdicts.labels.len() as f64,
            frechet: Gaussian::fit(features, width).distance(&self.gaussian),
            kernel: kernel.mean,
            kernel_half_width: kernel.half_width,
            precision: fidelity.precision,
            recall: fidelity.recall,
            density: fidelity.density,
            coverage: fidelity.coverage,
            novelty: auroc(&distances, &self.held_out_distances).value,
        }
    }
}

/// So many rows from all over a set.
fn spread_rows(features: &[f32], width: usize, rows: usize) -> Vec<f32> {
    let all = features.len() / width;
    let row = |i: usize| &features[i * all / rows * width..][..width];
    (0..rows.min(all)).flat_map(row).copied().collect()
}
