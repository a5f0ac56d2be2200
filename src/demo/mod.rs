//! The demo: both stages on a built-in set, samples of both, and figures that say which are better.

use std::path::PathBuf;
use std::time::Instant;

use crate::checkpoint::Checkpoint;
use crate::config::{Config, Stage};
use crate::device::Device;
use crate::eval::compare::{Gauge, Subject};
use crate::eval::report::{Report, Seconds};
use crate::run::{Observer, RunFolder, Start, StopFlag};
use crate::train::{Ended, TrainError, ebm, vae};

/// Samples of each kind that the figures are made from.
pub const SAMPLES: usize = 3000;

/// What a demo run gives.
pub struct Outcome {
    /// The figures.
    pub report: Report,
    /// Where the report for people lies.
    pub report_path: PathBuf,
    /// Where the picture lies.
    pub picture_path: PathBuf,
}

/// Trains both stages with this configuration into its run folder and measures samples.
///
/// `None` if it was asked to stop; everything trained so far is saved.
pub fn run(
    config: &Config,
    device: &mut dyn Device,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Option<Outcome>, TrainError> {
    let mut seconds = Seconds::default();
    let clock = Instant::now();
    if vae::train(config, device, Start::Fresh, observer, stop)? == Ended::Stopped {
        return Ok(None);
    }
    seconds.vae = clock.elapsed().as_secs_f64();

    let clock = Instant::now();
    let best = Checkpoint::open(&RunFolder::checkpoint_at(&config.run.out, Stage::Vae)?)?;
    if ebm::train(config, device, Start::Fresh, &best, observer, stop)? == Ended::Stopped {
        return Ok(None);
    }
    seconds.ebm = clock.elapsed().as_secs_f64();
    let mut gauge = Gauge::new(config, observer)?;
    let checkpoint = Checkpoint::open(&RunFolder::checkpoint_at(&config.run.out, Stage::Ebm)?)?;
    let subject = Subject {
        config,
        checkpoint: &checkpoint,
        count: SAMPLES,
    };
    measure(&mut gauge, &subject, device, seconds, observer, stop)
}

/// Measures a trained run: draws images of the VAE and of the VAEBM, and writes `report.txt`, `report.json` and `samples.png` into
/// the run folder. `seconds` holds what earlier phases took.
///
/// `None` if it was asked to stop.
pub fn measure(
    gauge: &mut Gauge,
    subject: &Subject<'_>,
    device: &mut dyn Device,
    mut seconds: Seconds,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Option<Outcome>, TrainError> {
    let Subject {
        config,
        checkpoint,
        count: samples,
    } = *subject;
    let out = &config.run.out;
    seconds.classifier = gauge.seconds;

    let clock = Instant::now();
    let Some((comparison, picture)) = gauge.compare(subject, device, observer, stop)? else {
        return Ok(None);
    };
    seconds.sampling = clock.elapsed().as_secs_f64();
    let report = Report {
        data: comparison.data,
        vae: comparison.vae,
        vaebm: comparison.vaebm,
        samples,
        step: checkpoint.header().step,
        held_out: comparison.held_out,
        compared: comparison.compared,
        classifier_accuracy: comparison.accuracy,
        seed: config.run.seed,
        pixel_range: config.sample.pixel_range,
        readjust_bn: config.sample.readjust_bn,
        seconds,
    };
    let picture_path = out.join("samples.png");
    picture.write_png(&picture_path)?;
    let report_path = report.write(out)?;
    Ok(Some(Outcome {
        report,
        report_path,
        picture_path,
    }))
}
