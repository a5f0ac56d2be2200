//! One row of a report: one combination of model, batch, precision and steps, measured on a device of its own.

use std::time::Instant;

use serde::Serialize;

use super::machine::Machine;
use super::parts::Split;
use super::{Bench, Figures, What};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::device::facts::{Facts, Rates};
use crate::device::memory;
use crate::program::gpu::Precision;
use crate::train::TrainError;

/// What is to be measured.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Model, device and precision.
    pub config: &'a Config,
    /// Weights other than random ones.
    pub weights: Option<&'a Checkpoint>,
    /// What to time.
    pub what: What,
    /// Chains or images.
    pub batch: usize,
    /// Langevin steps of a submission, each of which makes a row; of a training step one row is made.
    pub steps: &'a [u32],
    /// Seconds to time each row.
    pub seconds: f64,
}

/// What a row is of: rows of two reports that agree in this can be held against each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// [`What::name`].
    pub what: &'static str,
    /// The preset that the configuration started from; empty for none.
    pub preset: String,
    /// Chains or images.
    pub batch: usize,
    /// Of matrix products.
    pub precision: &'static str,
    /// Langevin steps of a submission, 1 for what has none.
    pub steps: u32,
    /// The device's name.
    pub device: String,
    /// CPU threads.
    pub threads: usize,
}

/// Memory that the row's programs took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What the GPU has less of than before anything was prepared, as its driver says; `None` for the host.
    pub device_bytes: Option<usize>,
    /// The process's resident memory at its highest since the row began; `None` where the system does not tell.
    pub resident_peak_bytes: Option<usize>,
}

/// Milliseconds until the first images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StartUp {
    /// Opening the device. Only the first row of a process starts the driver.
    pub open_ms: f64,
    /// Recording, planning and preparing the programs with their weights; on a GPU with the driver's translation of the kernels,
    /// unless its cache has them.
    pub prepare_ms: f64,
    /// The first batch of images after that, on the host.
    pub first_images_ms: f64,
}

/// A row of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it is of.
    #[serde(flatten)]
    pub key: Key,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// FLOP/s as a share of the device's own rate of matrix products.
    pub share_of_matrix_peak: f64,
    /// Bytes per second of the cost rules as a share of the device's own copy.
    pub share_of_copy_peak: f64,
    /// Those rates.
    pub rates: Rates,
    /// A step by parts; `None` for sampling.
    pub split: Option<Split>,
    /// Memory.
    pub memory: Memory,
    /// Of sampling.
    pub start_up: Option<StartUp>,
    /// What it was measured on.
    pub machine: Machine,
}

fn since(clock: Instant) -> f64 {
    clock.elapsed().as_secs_f64() * 1e3
}

/// Refuses a precision that the device does not compute in.
fn check_precision(facts: &Facts, precision: Precision) -> Result<(), TrainError> {
    match facts.driver {
        None if precision != Precision::F32 => Err(TrainError::Mismatch(format!(
            "precision {} needs a GPU, and this is the {} device, which computes in f32: take --precision f32",
            precision.suffix(),
            facts.name
        ))),
        _ => Ok(()),
    }
}

/// Measures a request on a device opened for it, a row for each number of steps. `rates` keeps what was measured of the device for the
/// next request of the same precision.
///
/// # Errors
/// A device that cannot be used, a model that has no such step, a batch that does not fit.
pub fn measure(
    request: Request<'_>,
    rates: &mut Option<Rates>,
    mut tell: impl FnMut(Row),
) -> Result<(), TrainError> {
    let Request { config, what, .. } = request;
    let precision = config.run.gpu_precision();
    let clock = Instant::now();
    let mut device = config.run.open_device()?;
    let open_ms = since(clock);
    let facts = device.facts();
    check_precision(&facts, precision)?;
    let rates = match rates {
        Some(known) => *known,
        None => *rates.insert(device.measure_rates()?),
    };
    memory::forget_peak();
    let free = device.available_bytes();
    let clock = Instant::now();
    let mut bench = Bench::new(
        config,
        &mut *device,
        request.batch,
        request.weights,
        &[what],
    )?;
    let prepare_ms = since(clock);
    let once = [1];
    let all = if what.has_steps() {
        request.steps
    } else {
        &once
    };
    let mut split: Option<Split> = None;
    for &steps in all {
        bench.set_steps(steps);
        let clock = Instant::now();
        bench.step(what)?;
        let first_images_ms = since(clock);
        let figures = bench.figures(what, request.seconds)?;
        if what != What::Sample {
            split = Some(match split {
                // The parts of a step do not depend on how many are submitted together; what they add up to does.
                Some(known) => known.scaled(figures.ms_median),
                None => bench.split(what, figures.ms_median, request.seconds)?,
            });
        }
        let on_gpu = facts.driver.is_some();
        let row = Row {
            key: Key {
                what: what.name(),
                preset: config.run.preset.clone(),
                batch: request.batch,
                precision: precision.suffix(),
                steps,
                device: facts.name.clone(),
                threads: rayon::current_num_threads(),
            },
            share_of_matrix_peak: figures.gflop_per_s * 1e9 / rates.matrix,
            share_of_copy_peak: figures.gb_per_s * 1e9 / rates.copy,
            figures,
            rates,
            split: split.clone(),
            memory: Memory {
                device_bytes: on_gpu.then(|| free.saturating_sub(bench.device().available_bytes())),
                resident_peak_bytes: memory::resident_bytes().map(|(_, peak)| peak),
            },
            start_up: (what == What::Sample).then_some(StartUp {
                open_ms,
                prepare_ms,
                first_images_ms,
            }),
            machine: Machine::now(bench.device().facts()),
        };
        tell(row);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_needs_a_gpu_and_f32_none() {
        let host = Facts {
            name: "cpu".into(),
            ..Facts::default()
        };
        let gpu = Facts {
            driver: Some("CUDA 12.0".into()),
            ..host.clone()
        };
        assert!(check_precision(&host, Precision::F32).is_ok());
        assert!(check_precision(&gpu, Precision::Bf16).is_ok());
        let refused = check_precision(&host, Precision::Bf16).unwrap_err();
        assert!(refused.to_string().contains("needs a GPU"), "{refused}");
    }
}
