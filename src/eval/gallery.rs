//! Samples beside the training images that are nearest to them, by pixels and by features: whether a model repeats what it has seen.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::compare::{Gauge, Subject, samples};
use super::neighbours::{Neighbour, Search};
use crate::checkpoint::replace_file;
use crate::data::picture::{GridOptions, Picture};
use crate::data::read_f32;
use crate::device::Device;
use crate::run::{Event, Observer, StopFlag};
use crate::train::TrainError;

/// Samples that are shown.
const SHOWN: usize = 12;
/// Neighbours of each.
const KEPT: usize = 4;
/// Training images that are looked through at once.
const PART: usize = 1024;

/// The nearest training images of one sample, nearest first.
#[derive(Clone, Debug, Serialize)]
struct Nearest {
    /// Numbers and distances by pixels in `[0, 1]`.
    pixels: Vec<Neighbour>,
    /// By the classifier's features.
    features: Vec<Neighbour>,
}

/// Samples of the VAEBM with their nearest training images.
pub struct Gallery {
    picture: Picture,
    nearest: Vec<Nearest>,
}

impl Gallery {
    /// Writes `neighbours.png` and `neighbours.json` into a folder; returns the path of the first.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, TrainError> {
        let path = folder.join("neighbours.json");
        let json = serde_json::to_string_pretty(&self.nearest).unwrap_or_default() + "\n";
        replace_file(&path, json.as_bytes())
            .map_err(|source| TrainError::Write { path, source })?;
        let path = folder.join("neighbours.png");
        self.picture.write_png(&path)?;
        Ok(path)
    }
}

impl Gauge {
    /// Draws the samples that [`Gauge::compare`] shows first and searches all training images for their neighbours.
    ///
    /// `None` if it was asked to stop.
    ///
    /// # Errors
    /// As [`Gauge::compare`].
    pub fn neighbours(
        &mut self,
        subject: &Subject<'_>,
        device: &mut dyn Device,
        observer: &mut dyn Observer,
        stop: &StopFlag,
    ) -> Result<Option<Gallery>, TrainError> {
        self.check(subject)?;
        let Subject {
            config, checkpoint, ..
        } = *subject;
        let Some(drawn) = samples(config, device, checkpoint, SHOWN, observer, stop)? else {
            return Ok(None);
        };
        let shown: Vec<f32> = drawn.vaebm.iter().map(|v| v.clamp(0.0, 1.0)).collect();
        let classifier = self.yardstick.classifier();
        let features = classifier.apply(&mut *self.device, &shown)?.features;
        let set = self.splits.train.clone();
        let (shape, values) = (set.shape(), set.shape().values());

        let clock = Instant::now();
        observer.event(Event::PhaseStarted {
            name: "searching the training images",
            total: Some(set.len() as u64),
            done: 0,
        });
        let mut by_pixels = Search::new(&shown, values, KEPT);
        let mut by_features = Search::new(&features, classifier.feature_count(), KEPT);
        for first in (0..set.len()).step_by(PART) {
            if stop.is_requested() {
                return Ok(None);
            }
            let items: Vec<usize> = (first..set.len().min(first + PART)).collect();
            let images = read_f32(&*set, &items)?;
            by_pixels.offer(&images);
            by_features.offer(&classifier.apply(&mut *self.device, &images)?.features);
            observer.event(Event::Step {
                step: (first + items.len()) as u64,
                scalars: &[],
            });
        }
        observer.event(Event::PhaseEnded {
            seconds: clock.elapsed().as_secs_f64(),
        });

        let pairs = by_pixels.finish().into_iter().zip(by_features.finish());
        let nearest: Vec<Nearest> = pairs
            .map(|(pixels, features)| Nearest { pixels, features })
            .collect();
        let grid = |images: &[f32], columns: usize| {
            let options = GridOptions {
                columns,
                ..GridOptions::default()
            };
            Picture::grid(images, shape, &options)
        };
        let found = |which: fn(&Nearest) -> &Vec<Neighbour>| -> Result<Picture, TrainError> {
            let all = nearest.iter().flat_map(which);
            let items: Vec<usize> = all.map(|n| n.item).collect();
            Ok(grid(&read_f32(&*set, &items)?, KEPT))
        };
        let picture = Picture::panels(&[
            ("VAEBM", grid(&shown, 1)),
            ("nearest by pixels", found(|n| &n.pixels)?),
            ("nearest by features", found(|n| &n.features)?),
        ]);
        Ok(Some(Gallery { picture, nearest }))
    }
}
