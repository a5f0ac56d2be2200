//! Telling images of other sets from a model's own: `vaebm ood`.
//!
//! Three scores, each higher for images that the model finds less likely: the energy; `-log h(x)` of the VAEBM, whose density is
//! `h(x) / Z` with `log h(x) = log p_VAE(x) - E(x)`, the first by its importance-weighted bound; the VAE's `-ELBO`, and its
//! `-log p(x)` by the same bound. `log Z` is the logarithm of the mean of `exp(-E)` over the VAE's law: unknown, but the same number for
//! every image, so that it changes no order and no area under the ROC curve.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::auroc::auroc;
use super::evidence::Pass;
use super::histogram::{self, Histogram};
use crate::checkpoint::{Checkpoint, replace_file};
use crate::config::{Config, DataSet, Model, Stage};
use crate::data::{Dataset, Spread};
use crate::device::{Device, ProgramId};
use crate::langevin::programs::EBM;
use crate::nn::Mode;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Event, Observer, StopFlag};
use crate::tape::plan_within;
use crate::tensor::Shape;
use crate::train::ebm_programs::evaluate;
use crate::train::images::{self, Images};
use crate::train::vae_programs::{NoiseSource, SAMPLE_STREAM, VAE, prior_samples};
use crate::train::{StateList, TrainError};

/// A set as it is named on the command line: `mnist`, `cifar10:FOLDER`, `images:FOLDER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which set.
    pub set: DataSet,
    /// Where it lies; `None` for a built-in set, or where the run's own files are meant.
    pub path: Option<PathBuf>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once(':') {
            Some((name, path)) => (name, Some(path)),
            None => (text, None),
        };
        let known = DataSet::ALL.iter().find(|set| set.name() == name);
        let sets = DataSet::NAMES.join(", ");
        let set = *known.ok_or_else(|| format!("`{name}` is none of the sets: {sets}"))?;
        if path == Some("") {
            return Err(format!("there is no path after `{name}:`"));
        }
        Ok(Named {
            set,
            path: path.map(PathBuf::from),
        })
    }
}

/// One of the two sets: its held-out images, or so many from all over them.
pub struct Side {
    set: DataSet,
    path: Option<PathBuf>,
    held_out: usize,
    images: Arc<dyn Dataset>,
}

impl Side {
    /// The held-out images of the run's own set, at most `images` of them (0: all).
    ///
    /// # Errors
    /// A set that cannot be opened.
    pub fn own(config: &Config, images: usize) -> Result<Self, TrainError> {
        Self::of(config, images::open(config)?.valid, images)
    }

    /// The held-out images of any set, prepared as the run's own are: the same border, grain and crop. `flag` is what names it.
    ///
    /// # Errors
    /// A set whose files are not named or cannot be read, images that do not fit the model.
    pub fn named(
        config: &Config,
        named: &Named,
        flag: &str,
        images: usize,
    ) -> Result<Self, TrainError> {
        let mut config = config.clone();
        let same = config.data.dataset == named.set;
        if let (Some(_), _) | (None, false) = (&named.path, same) {
            config.data.path.clone_from(&named.path);
        }
        if !same {
            // How much of the run's own set is held out says nothing about another.
            (config.data.dataset, config.data.valid) = (named.set, 0);
        }
        let built_in = matches!(named.set, DataSet::Glyphs | DataSet::StackedGlyphs);
        if config.data.path.is_none() && !built_in {
            return Err(TrainError::Mismatch(format!(
                "the set `{0}` is read from files: say where they are, as in {flag} {0}:FOLDER",
                named.set
            )));
        }
        let splits = images::open_other(&config, &format!("{flag} {}", named.set))?;
        Self::of(&config, splits.valid, images)
    }

    fn of(config: &Config, held_out: Arc<dyn Dataset>, images: usize) -> Result<Self, TrainError> {
        let all = held_out.len();
        let count = if images == 0 { all } else { images.min(all) };
        if count < 2 {
            return Err(TrainError::Mismatch(format!(
                "{count} held-out image(s) of the set `{}`: an area under the ROC curve needs at least two of each set",
                config.data.dataset
            )));
        }
        Ok(Side {
            set: config.data.dataset,
            path: config.data.path.clone(),
            held_out: all,
            images: Spread::over(held_out, count),
        })
    }

    /// Its name, with the folder where the set's own name does not tell what it is.
    pub fn name(&self) -> String {
        let folder = self.path.as_deref().and_then(Path::file_name);
        match (self.set, folder) {
            (DataSet::Images, Some(folder)) => format!("images-{}", folder.to_string_lossy()),
            (set, _) => set.to_string(),
        }
    }
}

/// How scores are estimated.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Importance samples per image, for bounds and ELBO.
    pub samples: u32,
    /// Images that are scored together; the figures do not depend on it beyond rounding.
    pub batch: usize,
}

/// The scores of the images of one set.
pub struct Scores {
    /// The energy of each image, if there is an energy network.
    energy: Option<Vec<f64>>,
    /// The negative ELBO of each image and its bound of `log p(x)`, in nats.
    bounds: Vec<(f64, f64)>,
}

/// What tells the sets apart, and how well.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// `energy`, `log_h`, `log_p` or `elbo`.
    pub name: &'static str,
    /// The score as it is written: higher for images that the model finds less likely.
    pub formula: &'static str,
    /// The chance that an image of the other set scores higher than one of the model's own.
    pub auroc: f64,
    /// The ends of its 95% interval (DeLong), cut off at 0 and 1.
    pub interval: [f64; 2],
    /// Medians of the scores of both sets.
    pub medians: [f64; 2],
    /// The scores of both sets.
    pub histogram: Histogram,
}

/// One of the two sets in a report.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    /// Its name.
    pub set: String,
    /// Its files.
    pub path: Option<PathBuf>,
    /// Images scored.
    pub images: usize,
    /// Of so many held-out ones.
    pub held_out: usize,
}

/// A pair of sets, told apart by each score.
#[derive(Clone, Debug, Serialize)]
pub struct Detection {
    /// What this is, for those who find the file.
    pub kind: &'static str,
    /// The model's own set.
    #[serde(rename = "in")]
    pub inside: Described,
    /// The other one.
    #[serde(rename = "out")]
    pub outside: Described,
    /// One entry a score.
    pub scores: Vec<Score>,
    /// Importance samples per image.
    pub importance_samples: u32,
    /// Steps of the VAE's training.
    pub vae_step: u64,
    /// Steps of the energy network's training, if there is one.
    pub ebm_step: Option<u64>,
    /// Seed of the posterior's noise.
    pub seed: u64,
}

/// The value of [`Detection::kind`].
pub const KIND: &str = "out-of-distribution";

/// A model on a device, ready to score images.
pub struct Detector<'d> {
    device: &'d mut dyn Device,
    config: Config,
    settings: Settings,
    pass: Pass,
    energy: Option<ProgramId>,
    vae_step: u64,
    ebm_step: Option<u64>,
}

impl<'d> Detector<'d> {
    /// Loads the VAE from a checkpoint of stage 1, and from one of stage 2, if given, the energy network and the decoder as it was
    /// there. `config` is the run's.
    ///
    /// # Errors
    /// Checkpoints of other stages or architectures, a VAE that the energy network was not trained on, a batch that does not fit in
    /// memory.
    pub fn new(
        config: &Config,
        device: &'d mut dyn Device,
        vae: &Checkpoint,
        ebm: Option<&Checkpoint>,
        settings: Settings,
    ) -> Result<Self, TrainError> {
        StateList::restore_params(device, vae, VAE, &Pass::params(config))?;
        let mut energy = None;
        if let Some(ebm) = ebm {
            let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
            let source = NoiseSource::Streams(SAMPLE_STREAM);
            let decoder = prior_samples(&model, 1, 1.0, Mode::Eval, source).params;
            for param in decoder.iter().filter(|p| p.role.is_trainable()) {
                let name = format!("{VAE}.{}", param.name);
                if vae.tensor(&name)? != ebm.tensor(&name)? {
                    return Err(TrainError::Mismatch(format!(
                        "{} is not the VAE that {} was trained on: `{name}` differs; name the run of that VAE with --vae",
                        vae.path().display(),
                        ebm.path().display()
                    )));
                }
            }
            // Stage 2 may have moved the decoder's batch norms.
            StateList::restore_params(device, ebm, VAE, &decoder)?;
            let shape = |n: usize| model.image_shape(n);
            let recorded = |shape: Shape| evaluate(&config.ebm, shape);
            StateList::restore_params(device, ebm, EBM, &recorded(shape(1)).params)?;
            let plan = |n: usize| recorded(shape(n)).tape.plan("eval/energy");
            let plan = plan_within(plan, settings.batch, device.available_bytes())?;
            energy = Some(device.prepare(plan)?);
        }
        Ok(Detector {
            pass: Pass::prepare(config, device, settings.batch)?,
            device,
            config: config.clone(),
            settings,
            energy,
            vae_step: vae.header().step,
            ebm_step: ebm.map(|c| c.header().step),
        })
    }

    /// Scores the images of a set. `None` if it was asked to stop.
    ///
    /// # Errors
    /// Images that cannot be read, scores that are not finite.
    pub fn score(
        &mut self,
        side: &Side,
        observer: &mut dyn Observer,
        stop: &StopFlag,
    ) -> Result<Option<Scores>, TrainError> {
        let (images, batch) = (side.images.len(), self.settings.batch);
        let batches = |stage: Stage| Images::new(side.images.clone(), &self.config, batch, stage);
        let clock = Instant::now();
        observer.event(Event::PhaseStarted {
            name: "scoring images",
            total: Some(images as u64),
            done: 0,
        });
        let (set, samples) = (batches(Stage::Vae)?, self.settings.samples);
        let bounds = self
            .pass
            .over(self.device, &set, images, samples, observer, stop)?;
        let Some(bounds) = bounds else {
            return Ok(None);
        };
        let mut energy = None;
        if let Some(program) = self.energy {
            let set = batches(Stage::Ebm)?;
            let mut all = Vec::with_capacity(images);
            for index in 0..images.div_ceil(batch) {
                let (x, valid) = set.evaluation(index)?;
                self.device.feed(program, "x", &x)?;
                self.device.run(program, Noise::default())?;
                let energies = self.device.fetch(program, "energy")?;
                all.extend(energies[..valid].iter().map(|e| f64::from(*e)));
            }
            if let Some(image) = all.iter().position(|e| !e.is_finite()) {
                return Err(TrainError::Mismatch(format!(
                    "the energy of image {image} of the set `{}` is not finite: this model has diverged in training",
                    side.set
                )));
            }
            energy = Some(all);
        }
        observer.event(Event::PhaseEnded {
            seconds: clock.elapsed().as_secs_f64(),
        });
        Ok(Some(Scores {
            energy,
            bounds: bounds.per_image().collect(),
        }))
    }

    /// How well the scores tell two sets apart.
    pub fn compare(&self, inside: (&Side, &Scores), outside: (&Side, &Scores)) -> Detection {
        let described = |(side, scores): (&Side, &Scores)| Described {
            set: side.name(),
            path: side.path.clone(),
            images: scores.bounds.len(),
            held_out: side.held_out,
        };
        let both = [inside.1, outside.1];
        let mut scores = Vec::new();
        if let [Some(a), Some(b)] = both.map(|s| s.energy.as_ref()) {
            scores.push(Score::of("energy", "E(x)", [a.clone(), b.clone()]));
            // An energy network on pixels alone has no part of the VAE in its density.
            if self.config.ebm.model == Model::Vaebm {
                let log_h = |energy: &[f64], of: &Scores| {
                    let pairs = energy.iter().zip(&of.bounds);
                    pairs.map(|(e, (_, log_p))| e - log_p).collect()
                };
                let values = [log_h(a, both[0]), log_h(b, both[1])];
                scores.push(Score::of("log_h", "-log h(x)", values));
            }
        }
        let bound = |of: &Scores| of.bounds.iter().map(|(_, log_p)| -log_p).collect();
        scores.push(Score::of("log_p", "-log p(x) of the VAE", both.map(bound)));
        let nelbo = |of: &Scores| of.bounds.iter().map(|(nelbo, _)| *nelbo).collect();
        scores.push(Score::of("elbo", "-ELBO of the VAE", both.map(nelbo)));
        Detection {
            kind: KIND,
            inside: described(inside),
            outside: described(outside),
            scores,
            importance_samples: self.settings.samples,
            vae_step: self.vae_step,
            ebm_step: self.ebm_step,
            seed: self.config.run.seed,
        }
    }
}

impl Score {
    fn of(name: &'static str, formula: &'static str, [inside, outside]: [Vec<f64>; 2]) -> Self {
        let area = auroc(&outside, &inside);
        let median = |values: &[f64]| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            let half = sorted.len() / 2;
            match sorted.len() % 2 {
                0 => 0.5 * (sorted[half - 1] + sorted[half]),
                _ => sorted[half],
            }
        };
        let end = |sign: f64| (area.value + sign * area.half_width).clamp(0.0, 1.0);
        Score {
            name,
            formula,
            auroc: area.value,
            interval: [end(-1.0), end(1.0)],
            medians: [median(&inside), median(&outside)],
            histogram: Histogram::of(&inside, &outside),
        }
    }
}

impl Detection {
    /// The table, and what its figures mean.
    pub fn text(&self) -> String {
        let side = |d: &Described| {
            let path = d.path.as_ref().map(|p| format!(" ({})", p.display()));
            format!(
                "{}{}, {} of {} held-out images",
                d.set,
                path.unwrap_or_default(),
                d.images,
                d.held_out
            )
        };
        let mut text = format!(
            "in:  {}\nout: {}\n\n{:<22}{:>10}{:>20}{:>16}{:>16}\n",
            side(&self.inside),
            side(&self.outside),
            "",
            "AUROC",
            "95% interval",
            "median in",
            "median out"
        );
        for s in &self.scores {
            let interval = format!("{:.4} to {:.4}", s.interval[0], s.interval[1]);
            text += &format!(
                "{:<22}{:>10.4}{interval:>20}{:>16.4}{:>16.4}\n",
                s.formula, s.auroc, s.medians[0], s.medians[1]
            );
        }
        text += &format!(
            "\nAUROC: the chance that an image of `out` scores higher than one of `in`, with DeLong's interval. 0.5 tells nothing apart;\n\
             below, the model takes the other set for likelier than its own. Bounds from {} importance samples an image.\n",
            self.importance_samples
        );
        if self.scores.iter().any(|s| s.name == "log_h") {
            text += "log h(x) = log p(x) - E(x) is the VAEBM's log density up to the constant -log Z, which is the same for every image.\n";
        }
        if self.scores.iter().any(|s| s.interval[0] == s.interval[1]) {
            text += "An interval of no width: the two sets do not overlap, and so many images do not tell how rare an overlap is.\n";
        }
        if self.outside.set.starts_with("images") || self.inside.set.starts_with("images") {
            text += "Pictures of a folder were cut to squares, resized and read with the model's channels.\n";
        }
        text
    }

    /// What its files are called: `ood-mnist-fashion-mnist`.
    pub fn stem(&self) -> String {
        let plain = |c: char| match c {
            c if c.is_ascii_alphanumeric() || "-_.".contains(c) => c,
            _ => '_',
        };
        let name = format!("ood-{}-{}", self.inside.set, self.outside.set);
        name.chars().map(plain).collect()
    }

    /// The histograms of all scores as an SVG file.
    pub fn picture(&self) -> String {
        let panels: Vec<(String, &Histogram)> = (self.scores.iter())
            .map(|s| {
                (
                    format!("{}   AUROC {:.4}", s.formula, s.auroc),
                    &s.histogram,
                )
            })
            .collect();
        let legend = [&self.inside, &self.outside].map(|d| d.set.as_str());
        histogram::file(legend, &panels)
    }

    /// Writes figures and picture into a folder; returns the path of the picture.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, TrainError> {
        let json = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        let path = folder.join(self.stem() + ".svg");
        for (path, contents) in [
            (folder.join(self.stem() + ".json"), json),
            (path.clone(), self.picture()),
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

    #[test]
    fn sets_are_named_with_or_without_a_path() {
        let named = |text: &str| text.parse::<Named>();
        assert_eq!(
            named("mnist"),
            Ok(Named {
                set: DataSet::Mnist,
                path: None
            })
        );
        // Everything after the first colon is the path.
        let path = Some(PathBuf::from("C:/a:b"));
        assert_eq!(named("images:C:/a:b").unwrap().path, path);
        assert!(named("mnits").unwrap_err().contains("fashion-mnist"));
        assert!(named("mnist:").unwrap_err().contains("path"));
    }

    #[test]
    fn a_score_has_its_known_area_interval_and_medians() {
        // Of the six pairs of one from each set the second is higher in four and equal in one: 4.5 / 6.
        let score = Score::of("energy", "E(x)", [vec![1.0, 3.0], vec![2.0, 3.0, 9.0]]);
        assert!((score.auroc - 4.5 / 6.0).abs() < 1e-15);
        assert_eq!(score.medians, [2.0, 3.0]);
        // DeLong by hand: shares 1/2, 3/4, 1 and 1, 1/2 with variances 1/16 and 1/8, so 1/48 + 1/16 in all, cut off at 1.
        let half = 1.959_963_984_540_054 * (1.0f64 / 48.0 + 1.0 / 16.0).sqrt();
        assert!((score.interval[0] - (0.75 - half)).abs() < 1e-12);
        assert_eq!(score.interval[1], 1.0);
    }
}
