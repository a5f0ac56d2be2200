//! Sampling: chains that run together on a device, started, advanced and looked at.

use super::programs::{Chains, StepNoise};
use crate::config::FinalImage;
use crate::device::{Device, ProgramId};
use crate::program::{Noise, Plan};
use crate::tape::plans_within;
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
    ///
    /// # Errors
    /// Chains that do not fit in memory together.
    pub fn new(device: &mut dyn Device, chains: Chains) -> Result<Self, TrainError> {
        let plans = |n: usize| {
            Self::plans(&Chains {
                n,
                ..chains.clone()
            })
        };
        let plans = plans_within(plans, chains.n, device.available_bytes())?;
        Self::prepare(device, chains, plans)
    }

    /// The programs, for a caller that knows what else has to fit beside them.
    pub(crate) fn plans(chains: &Chains) -> [Plan; 3] {
        [
            chains.start().plan("sample/start"),
            chains
                .step(StepNoise::Generated, false)
                .plan("sample/langevin"),
            chains.images().plan("sample/images"),
        ]
    }

    /// Prepares what [`Sampler::plans`] gave for these chains.
    pub(crate) fn prepare(
        device: &mut dyn Device,
        chains: Chains,
        [start, step, images]: [Plan; 3],
    ) -> Result<Self, TrainError> {
        Ok(Sampler {
            start: device.prepare(start)?,
            step: device.prepare(step)?,
            images: device.prepare(images)?,
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

    /// The programs of start, step and images, for measuring.
    pub fn programs(&self) -> [ProgramId; 3] {
        [self.start, self.step, self.images]
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
