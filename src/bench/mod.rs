//! Throughput behind `vaebm bench`: the Langevin step, the training steps of both stages and sampling end to end, on networks with
//! random weights or those of a checkpoint.

pub mod compare;
mod dump;
mod figures;
pub mod machine;
pub mod parts;
pub mod rows;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

pub use dump::dump;
pub use figures::Figures;

use crate::checkpoint::Checkpoint;
use crate::config::{Config, FinalImage, Model, Stage};
use crate::device::{Device, ProgramId};
use crate::langevin::programs::{Chains, EBM};
use crate::langevin::sampler::Sampler;
use crate::nn::params::initialise;
use crate::nvae::Nvae;
use crate::philox;
use crate::profile::measure::{Timed, timed};
use crate::program::{Cost, Noise};
use crate::train::vae_programs::{NoiseSource, POWER_ITERATIONS, VAE, train_step};
use crate::train::{StateList, TrainError, ebm_programs};

/// What can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// One Langevin step of a batch of chains.
    Langevin,
    /// One training step of the VAE.
    Stage1,
    /// One update of the energy network, on images and on negatives decoded from chains that were just started.
    Energy,
    /// Sampling end to end: a batch of chains started, moved and decoded, and its images brought to the host.
    Sample,
}

impl What {
    /// All of them.
    pub const ALL: [What; 4] = [What::Langevin, What::Stage1, What::Energy, What::Sample];

    /// As flags and reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            What::Langevin => "langevin",
            What::Stage1 => "stage1",
            What::Energy => "energy",
            What::Sample => "sample",
        }
    }

    /// Whether the number of Langevin steps in a submission matters to it.
    pub const fn has_steps(self) -> bool {
        matches!(self, What::Langevin | What::Sample)
    }

    /// What runs per second are multiplied with a batch to give.
    pub const fn unit(self) -> &'static str {
        match self {
            What::Langevin => "chain-steps/s",
            What::Stage1 | What::Energy | What::Sample => "images/s",
        }
    }
}

/// Times of consecutive runs.
#[derive(Clone, Debug, Serialize)]
pub struct Slot {
    /// What was timed.
    pub what: What,
    /// Milliseconds of each: of a step, or of sampling as a whole.
    pub ms: Vec<f64>,
}

/// Prepared steps of one model on a device.
pub struct Bench<'d> {
    device: &'d mut dyn Device,
    /// Chains, for all but stage 1.
    sampler: Option<Sampler>,
    stage1: Option<ProgramId>,
    energy: Option<ProgramId>,
    config: Config,
    batch: usize,
    /// Langevin steps of a submission.
    steps: u32,
    step: u32,
}

impl<'d> Bench<'d> {
    /// Prepares what is to be timed, for a batch. Weights come from the configuration's seed, or from a checkpoint of stage 2.
    ///
    /// # Errors
    /// A model that has no stage 2 where chains are asked for, a batch that does not fit, a checkpoint of another architecture.
    pub fn new(
        config: &Config,
        device: &'d mut dyn Device,
        batch: usize,
        weights: Option<&Checkpoint>,
        what: &[What],
    ) -> Result<Self, TrainError> {
        let mut bench = Bench {
            device,
            sampler: None,
            stage1: None,
            energy: None,
            config: config.clone(),
            batch,
            steps: 1,
            step: 0,
        };
        if what.contains(&What::Stage1) {
            bench.prepare_stage1()?;
        }
        if what.iter().any(|w| *w != What::Stage1) {
            if let Err(error) = config.check_model(Stage::Ebm) {
                return Err(TrainError::Mismatch(format!(
                    "this model has no Langevin chains, only a stage 1: {error}"
                )));
            }
            bench.prepare_chains(weights)?;
        }
        if what.contains(&What::Energy) {
            bench.prepare_energy(weights)?;
        }
        Ok(bench)
    }

    fn model(&self) -> Nvae {
        let config = &self.config;
        Nvae::new(config.vae.clone(), config.data.size, config.data.channels)
    }

    fn chains(&self) -> Chains {
        Chains {
            model: self.model(),
            ebm: self.config.ebm.clone(),
            n: self.batch,
            target: self.config.sample.target,
            temperature: 1.0,
        }
    }

    /// Feeds numbers in `[0, 1)` for images, and scalars.
    fn feed(&mut self, program: ProgramId, scalars: &[(&str, f32)]) -> Result<(), TrainError> {
        let mut x = vec![0.0; self.model().image_shape(self.batch).len()];
        philox::fill_uniform(&mut x, self.config.run.seed, 0, 0, 0);
        self.device.feed(program, "x", &x)?;
        // A learning rate of zero keeps the weights, and with them the speed, as they are from step to step.
        for (name, value) in [("lr", 0.0), ("t", 10.0)].iter().chain(scalars) {
            self.device.feed(program, name, &[*value])?;
        }
        Ok(())
    }

    fn prepare_stage1(&mut self) -> Result<(), TrainError> {
        let record = train_step(
            &self.model(),
            &self.config.train_vae,
            self.config.data.num_x_bits,
            self.batch,
            POWER_ITERATIONS[1],
            NoiseSource::Streams(0),
        );
        let states = StateList::of(VAE, &record);
        let program = self.device.prepare(record.tape.plan("stage1/train"))?;
        states.start(self.device, self.config.run.seed)?;
        self.feed(program, &[("kl_coeff", 0.5), ("norm_coeff", 0.1)])?;
        self.stage1 = Some(program);
        Ok(())
    }

    /// Chains with their weights, started.
    fn prepare_chains(&mut self, weights: Option<&Checkpoint>) -> Result<(), TrainError> {
        let chains = self.chains();
        let (vae_params, ebm_params) = chains.params();
        let seed = self.config.run.seed;
        for (network, params) in [(VAE, &vae_params), (EBM, &ebm_params)] {
            match weights {
                Some(checkpoint) => {
                    StateList::restore_params(self.device, checkpoint, network, params)?
                }
                None => initialise(self.device, network, params, seed)?,
            }
        }
        let sampler = Sampler::new(self.device, chains)?;
        sampler.start(self.device, Noise::default())?;
        self.sampler = Some(sampler);
        Ok(())
    }

    /// The update of the energy network beside its chains.
    fn prepare_energy(&mut self, weights: Option<&Checkpoint>) -> Result<(), TrainError> {
        let chains = self.chains();
        let iterations = POWER_ITERATIONS[1];
        let (train, precision) = (&self.config.train_ebm, self.config.run.gpu_precision());
        let record = ebm_programs::train_step(&chains, train, precision, iterations, false);
        let program = self.device.prepare(record.tape.plan("stage2/update"))?;
        // Moments and spectral vectors start as in training, and so do the weights, unless they are given.
        StateList::of(EBM, &record).start(self.device, self.config.run.seed)?;
        if let Some(checkpoint) = weights {
            StateList::restore_params(self.device, checkpoint, EBM, &record.params)?;
        }
        self.feed(program, &[])?;
        self.energy = Some(program);
        Ok(())
    }

    /// Langevin steps of one submission, from now on; 1 at first.
    pub fn set_steps(&mut self, steps: u32) {
        self.steps = steps.max(1);
    }

    /// The device.
    pub fn device(&mut self) -> &mut dyn Device {
        self.device
    }

    /// The program whose nodes are those of a step.
    fn program(&self, what: What) -> Result<ProgramId, TrainError> {
        let program = match what {
            What::Langevin | What::Sample => Some(chains_of(&self.sampler)?.step_program()),
            What::Stage1 => self.stage1,
            What::Energy => self.energy,
        };
        program.ok_or_else(|| {
            TrainError::Mismatch(format!("{} was not prepared to be timed", what.name()))
        })
    }

    /// Submits one run, without waiting for it: of Langevin steps as many as [`Bench::set_steps`] says.
    fn submit(&mut self, what: What) -> Result<(), TrainError> {
        let noise = Noise {
            seed: self.config.run.seed,
            step: self.step,
            first_sample: 0,
        };
        let steps = if what.has_steps() { self.steps } else { 1 };
        self.step = self.step.wrapping_add(steps);
        let size = self.config.sample.step_size;
        let program = self.program(what)?;
        match what {
            What::Langevin => chains_of(&self.sampler)?.advance(self.device, noise, steps, size)?,
            What::Stage1 => self.device.run(program, noise)?,
            What::Energy => {
                // Chains that moved: their images are decoded anew, as after the chains of a training step.
                chains_of(&self.sampler)?.start(self.device, noise)?;
                self.device.run(program, noise)?;
            }
            What::Sample => {
                let sampler = chains_of(&self.sampler)?;
                sampler.start(self.device, noise)?;
                sampler.advance(self.device, noise, steps, size)?;
                sampler.images(self.device, FinalImage::Mean)?;
            }
        }
        Ok(())
    }

    /// Does one run and waits for it.
    ///
    /// # Errors
    /// What was not prepared; a device that fails.
    pub fn step(&mut self, what: What) -> Result<(), TrainError> {
        self.submit(what)?;
        Ok(self.device.synchronize()?)
    }

    /// Runs some times, and then some more within a window that an attached profiler records.
    ///
    /// # Errors
    /// As [`Bench::step`]; a device that no such profiler looks at.
    pub fn capture(&mut self, what: What, before: u32, within: u32) -> Result<(), TrainError> {
        // Closed to begin with, in case the profiler records from the start.
        self.device.profiler_window(false)?;
        (0..before).try_for_each(|_| self.submit(what))?;
        self.device.profiler_window(true)?;
        (0..within).try_for_each(|_| self.submit(what))?;
        Ok(self.device.profiler_window(false)?)
    }

    /// Runs whose times are those of one step.
    fn per_run(&self, what: What) -> f64 {
        match what {
            What::Langevin => f64::from(self.steps),
            What::Stage1 | What::Energy | What::Sample => 1.0,
        }
    }

    /// Times runs for so many seconds, at least three of them. The first is not counted.
    ///
    /// # Errors
    /// As [`Bench::step`].
    pub fn slot(&mut self, what: What, seconds: f64) -> Result<Slot, TrainError> {
        self.step(what)?;
        let per_run = self.per_run(what);
        let mut ms = Vec::new();
        let started = Instant::now();
        while ms.len() < 3 || started.elapsed().as_secs_f64() < seconds {
            let clock = Instant::now();
            self.step(what)?;
            ms.push(clock.elapsed().as_secs_f64() * 1e3 / per_run);
        }
        Ok(Slot { what, ms })
    }

    /// What one step costs by the ops' rules; of sampling, everything.
    fn cost(&self, what: What) -> Result<Cost, TrainError> {
        let of = |program: ProgramId| self.device.plan(program).step_cost();
        let step = of(self.program(what)?);
        Ok(match what {
            What::Langevin | What::Stage1 => step,
            What::Energy => {
                let [start, _, _] = chains_of(&self.sampler)?.programs();
                let plan = self.device.plan(self.program(what)?);
                let decoding: Cost = plan.per_version.iter().map(|l| l.cost).sum();
                step + decoding + of(start)
            }
            What::Sample => {
                let [start, step, images] = chains_of(&self.sampler)?.programs();
                let steps = (0..self.steps).map(|_| of(step));
                steps.sum::<Cost>() + of(start) + of(images)
            }
        })
    }

    /// Time, FLOPs and bytes of a step by node, in order: the median over a few runs, launched one by one and not as a graph.
    ///
    /// # Errors
    /// As [`Bench::step`].
    pub fn nodes(&mut self, what: What) -> Result<Vec<Timed>, TrainError> {
        self.step(what)?;
        let program = self.program(what)?;
        let mut runs = Vec::new();
        for step in 0..PROFILE_RUNS {
            let noise = Noise {
                step,
                ..Noise::default()
            };
            runs.push(self.device.time_launches(program, noise)?);
        }
        Ok(timed(self.device.plan(program), &runs))
    }

    /// Everything that was prepared.
    fn programs(&self) -> Vec<ProgramId> {
        let chains = self.sampler.iter().flat_map(Sampler::programs);
        chains.chain(self.stage1).chain(self.energy).collect()
    }

    /// Median milliseconds of the energy network's update on negatives that are decoded already.
    fn update_alone(&mut self, seconds: f64) -> Result<f64, TrainError> {
        let program = self.program(What::Energy)?;
        let mut ms = Vec::new();
        let started = Instant::now();
        while ms.len() < 4 || started.elapsed().as_secs_f64() < seconds {
            let clock = Instant::now();
            self.device.run(program, Noise::default())?;
            self.device.synchronize()?;
            ms.push(clock.elapsed().as_secs_f64() * 1e3);
        }
        // The first decodes.
        ms.remove(0);
        ms.sort_by(f64::total_cmp);
        Ok(figures::quantile(&ms, 0.5))
    }

    /// Whether the chains move images themselves, without a decoder.
    fn moves_pixels(&self) -> bool {
        self.config.ebm.model != Model::Vaebm
    }
}

fn chains_of(sampler: &Option<Sampler>) -> Result<&Sampler, TrainError> {
    sampler
        .as_ref()
        .ok_or_else(|| TrainError::Mismatch("chains are to be timed that were not prepared".into()))
}

/// Runs that a profile takes the median of.
const PROFILE_RUNS: u32 = 7;

/// Sums by kernel, the costliest first.
pub fn by_kernel(nodes: &[Timed]) -> Vec<KernelTime> {
    let mut by_kernel: BTreeMap<&'static str, KernelTime> = BTreeMap::new();
    for node in nodes {
        let entry = by_kernel.entry(node.kernel).or_insert(KernelTime {
            kernel: node.kernel,
            launches: 0,
            ms: 0.0,
            gflop: 0.0,
            mb: 0.0,
        });
        entry.launches += 1;
        entry.ms += node.seconds * 1e3;
        entry.gflop += node.flops / 1e9;
        entry.mb += node.bytes / 1e6;
    }
    let mut table: Vec<KernelTime> = by_kernel.into_values().collect();
    table.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    table
}

/// What one kernel takes of a step.
#[derive(Clone, Debug, Serialize)]
pub struct KernelTime {
    /// Its name.
    pub kernel: &'static str,
    /// Nodes of a step.
    pub launches: usize,
    /// Milliseconds of all of them.
    pub ms: f64,
    /// FLOPs of all of them, in billions.
    pub gflop: f64,
    /// Bytes that they must move by the cost rules, in millions.
    pub mb: f64,
}
