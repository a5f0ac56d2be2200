//! Sampling: chains that run together on a device, started, advanced and looked at.

use super::programs::{Chains, StepNoise};
use crate::config::FinalImage;
use crate::device::{Device, ProgramId};
use crate::program::Noise;
use crate::train::TrainError;

/// Images of all chains with their energies.
#[derive(Clone, Debug)]
pub struct Ends {
    /// `[n, size, size, channels]`, in `[0, 1]` units; means are not clamped.
    pub images: Vec<f32>,
    /// The energy of each chain's sample, `[n]`.
    pub energies: Vec<f32>,
}

/// The prepared programs of a group of chains.
pub struct Sampler {
    chains: Chains,
    start: ProgramId,
    step: ProgramId,
    images: ProgramId,
}

impl Sampler {
    /// Prepares the programs.
    pub fn new(device: &mut dyn Device, chains: Chains) -> Result<Self, TrainError> {
        Ok(Sampler {
            start: device.prepare(chains.start().plan("sample/start"))?,
            step: device.prepare(
                chains
                    .step(StepNoise::Generated, false)
                    .plan("sample/langevin"),
            )?,
            images: device.prepare(chains.images().plan("sample/images"))?,
            chains,
        })
    }

    /// The chains.
    pub fn chains(&self) -> &Chains {
        &self.chains
    }

    /// The program of one Langevin step, for measuring.
    pub fn step_program(&self) -> ProgramId {
        self.step
    }

    /// Starts all chains from standard normal noise.
    pub fn start(&self, device: &mut dyn Device, noise: Noise) -> Result<(), TrainError> {
        Ok(device.run(self.start, noise)?)
    }

    /// Advances all chains by `steps` Langevin steps of size `step_size`.
    pub fn advance(
        &self,
        device: &mut dyn Device,
        noise: Noise,
        steps: u32,
        step_size: f64,
    ) -> Result<(), TrainError> {
        device.feed(self.step, "step_size", &[step_size as f32])?;
        Ok(device.run_steps(self.step, noise, steps)?)
    }

    /// The images at the chains' present state.
    pub fn images(&self, device: &mut dyn Device, image: FinalImage) -> Result<Ends, TrainError> {
        device.run(self.images, Noise::default())?;
        let output = match image {
            FinalImage::Mean => "mean",
            FinalImage::Sample => "sample",
        };
        Ok(Ends {
            images: device.fetch(self.images, output)?,
            energies: device.fetch(self.images, "energy")?,
        })
    }

    /// Frees the programs.
    pub fn release(self, device: &mut dyn Device) {
        for program in [self.start, self.step, self.images] {
            device.release(program);
        }
    }
}
