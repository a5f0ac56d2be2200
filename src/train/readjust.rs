//! Batch-norm statistics of the decoder, estimated anew from prior samples (SPEC section 2, "BN readjustment"), and the decoder as
//! sampling needs it.

use std::time::Instant;

use super::vae_programs::{NoiseSource, READJUST_STREAM, VAE, prior_samples};
use super::{StateList, TrainError};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::device::Device;
use crate::nn::Mode;
use crate::nvae::Nvae;
use crate::program::Noise;
use crate::run::{Event, Observer, StopFlag};
use crate::tape::plan_within;

/// How statistics are estimated.
#[derive(Clone, Copy, Debug)]
pub struct Readjustment {
    /// Batches of prior samples; each moves the running statistics by their momentum.
    pub passes: usize,
    /// Images of a batch.
    pub batch: usize,
    /// Temperature of the samples.
    pub temperature: f64,
    /// Seed of their noise.
    pub seed: u64,
}

/// Passes prior samples through the decoder on the device in training mode. Nothing but running statistics moves.
///
/// A stop ends the passes early.
///
/// # Errors
/// A batch that does not fit in memory.
pub fn readjust(
    model: &Nvae,
    device: &mut dyn Device,
    readjustment: Readjustment,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<(), TrainError> {
    let Readjustment {
        passes,
        batch,
        temperature,
        seed,
    } = readjustment;
    if passes == 0 {
        return Ok(());
    }
    let plan = |n: usize| {
        let source = NoiseSource::Streams(READJUST_STREAM);
        let recorded = prior_samples(model, n, temperature, Mode::Train, source);
        recorded.tape.plan("sample/readjust")
    };
    let plan = plan_within(plan, batch, device.available_bytes())?;
    let program = device.prepare(plan)?;
    let started = Instant::now();
    observer.event(Event::PhaseStarted {
        name: "re-estimating batch norms",
        total: Some(passes as u64),
        done: 0,
    });
    for pass in 0..passes {
        if stop.is_requested() {
            break;
        }
        let noise = Noise {
            seed,
            step: pass as u32,
            first_sample: 0,
        };
        device.run(program, noise)?;
        observer.event(Event::Step {
            step: pass as u64 + 1,
            scalars: &[],
        });
    }
    device.release(program);
    observer.event(Event::PhaseEnded {
        seconds: started.elapsed().as_secs_f64(),
    });
    Ok(())
}

/// Restores the decoder from a checkpoint of either stage, and estimates its batch norms anew if the sampling settings say so.
///
/// # Errors
/// A checkpoint of another architecture, a batch that does not fit in memory.
pub fn restore_decoder(
    config: &Config,
    device: &mut dyn Device,
    checkpoint: &Checkpoint,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<(), TrainError> {
    let s = &config.sample;
    let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
    let source = NoiseSource::Streams(READJUST_STREAM);
    let params = prior_samples(&model, 1, s.temperature, Mode::Eval, source).params;
    StateList::restore_params(device, checkpoint, VAE, &params)?;
    let readjustment = Readjustment {
        passes: s.readjust_bn,
        batch: s.readjust_batch,
        temperature: s.temperature,
        seed: config.run.seed,
    };
    readjust(&model, device, readjustment, observer, stop)
}
