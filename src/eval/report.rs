//! The report of a run, for people and for machines.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::quality::Quality;
use crate::checkpoint::replace_file;
use crate::config::PixelRange;
use crate::train::TrainError;

type Value = fn(&Quality) -> f64;
/// Name, whether higher is better, and value of each measure.
type Measure = (&'static str, bool, Value);

pub(crate) const MEASURES: [Measure; 8] = [
    ("modes", true, |q| q.modes as f64),
    ("KL", false, |q| q.kl),
    ("confidence", true, |q| q.confidence),
    ("Frechet distance", false, |q| q.frechet),
    ("kernel distance", false, |q| q.kernel),
    ("precision", true, |q| q.precision),
    ("recall", true, |q| q.recall),
    ("coverage", true, |q| q.coverage),
];

/// Measures of which neither more nor less is better: the held-out data's value is.
const NEITHER: [(&str, Value); 2] = [("density", |q| q.density), ("novelty", |q| q.novelty)];

/// Seconds of each phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Training the classifier.
    pub classifier: f64,
    /// Stage 1.
    pub vae: f64,
    /// Stage 2.
    pub ebm: f64,
    /// Drawing samples and measuring them.
    pub sampling: f64,
}

impl Seconds {
    /// All phases.
    pub fn total(&self) -> f64 {
        self.classifier + self.vae + self.ebm + self.sampling
    }
}

/// All figures of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    /// Held-out data: what perfect samples would get.
    pub data: Quality,
    /// Samples of the VAE.
    pub vae: Quality,
    /// Samples of the VAEBM.
    pub vaebm: Quality,
    /// Images behind each row of samples.
    pub samples: usize,
    /// Steps of stage 2 that the checkpoint had.
    pub step: u64,
    /// Images of held-out data, fewer where the set has no more.
    pub held_out: usize,
    /// Images of each set behind precision, recall, density and coverage.
    pub compared: usize,
    /// Share of held-out label parts that the classifier gets right.
    pub classifier_accuracy: f64,
    /// The run's seed.
    pub seed: u64,
    /// How samples became pixels before they were measured.
    pub pixel_range: PixelRange,
    /// Passes that re-estimated batch norms before sampling.
    pub readjust_bn: usize,
    /// Seconds of each phase.
    pub seconds: Seconds,
}

impl Report {
    /// The table and the verdict.
    pub fn text(&self) -> String {
        let rows = [self.data, self.vae, self.vaebm];
        let mut text = format!("{:<20}{:>12}{:>12}{:>12}\n", "", "held-out", "VAE", "VAEBM");
        let mut line = |name: &str, value: &dyn Fn(&Quality) -> f64| {
            let _ = write!(text, "{name:<20}");
            for row in &rows {
                let _ = match name {
                    "modes" => write!(text, "{:>12}", row.modes),
                    _ => write!(text, "{:>12.4}", value(row)),
                };
            }
            text += "\n";
        };
        for (name, _, value) in MEASURES {
            line(name, &value);
            if name == "kernel distance" {
                line("  95% interval, +-", &|q| q.kernel_half_width);
            }
        }
        for (name, value) in NEITHER {
            line(name, &value);
        }
        text += "\n";
        let mut better = Vec::new();
        let mut worse = Vec::new();
        for (name, higher_is_better, value) in MEASURES {
            let (vae, vaebm) = (value(&self.vae), value(&self.vaebm));
            if vae == vaebm {
                continue;
            }
            let improved = (vaebm > vae) == higher_is_better;
            if improved { &mut better } else { &mut worse }.push(name);
        }
        if !better.is_empty() {
            text += &format!("The energy network improved: {}.\n", better.join(", "));
        }
        if !worse.is_empty() {
            text += &format!("It made worse: {}.\n", worse.join(", "));
        }
        let mut images = format!("{} images in each row", self.samples);
        if self.held_out != self.samples {
            images += &format!(" ({} of held-out data)", self.held_out);
        }
        text += &format!(
            "\n{}, both models from the same starting noise; labels and features from a classifier\n\
             that gets {:.2}% of held-out labels right. Modes: higher is better; KL: samples to the data's law\n\
             over modes, in nats, lower is better; confidence: of the classifier, data's is the goal; Frechet and kernel distance:\n\
             of features to training images, lower is better; precision, recall, coverage: shares of {} images of each set that\n\
             lie in the other's neighbourhoods, higher is better; density: how deep samples lie in the data's, data's is the goal;\n\
             novelty: the chance that a sample is farther from the training images than a held-out image, 0.5 is the data's.\n\
             Checkpoint of step {}, seed {}, {:.0} seconds in all.\n",
            images,
            100.0 * self.classifier_accuracy,
            self.compared,
            self.step,
            self.seed,
            self.seconds.total()
        );
        if self.pixel_range == PixelRange::PerImage {
            text += "Each sample was stretched from its own minimum to its own maximum, as the published script saves it.\n";
        }
        if self.readjust_bn > 0 {
            text += &format!(
                "Batch norms were re-estimated in {} passes of prior samples.\n",
                self.readjust_bn
            );
        }
        text
    }

    /// Writes `report.txt` and `report.json` into a folder; returns the path of the first.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, TrainError> {
        let json = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        let path = folder.join("report.txt");
        for (path, contents) in [
            (folder.join("report.json"), json),
            (path.clone(), self.text()),
        ] {
            replace_file(&path, contents.as_bytes())
                .map_err(|source| TrainError::Write { path, source })?;
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quality(modes: usize, frechet: f64) -> Quality {
        Quality {
            modes,
            kl: 0.5,
            confidence: 0.9,
            frechet,
            kernel: 0.25,
            kernel_half_width: 0.0625,
            precision: 0.75,
            recall: 0.5,
            density: 1.25,
            coverage: 0.875,
            novelty: 0.625,
        }
    }

    #[test]
    fn what_is_worse_is_shown_as_worse() {
        let report = Report {
            data: quality(950, 0.1),
            vae: quality(900, 3.0),
            vaebm: quality(890, 2.0),
            samples: 3000,
            step: 400,
            held_out: 400,
            compared: 300,
            classifier_accuracy: 0.99,
            seed: 1,
            pixel_range: PixelRange::Fixed,
            readjust_bn: 0,
            seconds: Seconds::default(),
        };
        let text = report.text();
        assert!(text.contains("improved: Frechet distance."), "{text}");
        assert!(text.contains("made worse: modes."), "{text}");
        assert!(text.contains("row (400 of held-out data), both"), "{text}");
        for line in [
            "modes                        950         900         890",
            "Frechet distance          0.1000      3.0000      2.0000",
            "kernel distance           0.2500      0.2500      0.2500",
            "  95% interval, +-        0.0625      0.0625      0.0625",
            "novelty                   0.6250      0.6250      0.6250",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in {text}");
        }
        assert!(text.contains("shares of 300 images"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["vaebm"]["modes"], 890);
        assert!(json["seconds"]["vae"].is_number());
        assert_eq!(json["pixel_range"], "fixed");
        assert!(!text.contains("stretched") && !text.contains("re-estimated"));
        let text = Report {
            pixel_range: PixelRange::PerImage,
            readjust_bn: 500,
            ..report
        }
        .text();
        assert!(
            text.contains("stretched") && text.contains("500 passes"),
            "{text}"
        );
    }
}
