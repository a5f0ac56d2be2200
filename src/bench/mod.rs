//! Throughput behind `vaebm bench`: the Langevin step and the training step of stage 1, on networks with random weights or those of
//! a checkpoint.

pub mod compare;
mod dump;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

pub use dump::dump;

use crate::checkpoint::Checkpoint;
use crate::config::{Config, Stage};
use crate::device::{Device, ProgramId};
use crate::langevin::programs::{Chains, EBM};
use crate::langevin::sampler::Sampler;
use crate::nn::params::initialise;
use crate::nvae::Nvae;
use crate::philox;
use crate::profile::measure::{Timed, timed};
use crate::program::{Cost, Noise};
use crate::train::vae_programs::{NoiseSource, POWER_ITERATIONS, VAE, train_step};
use crate::train::{StateList, TrainError};

/// Runs before anything is timed, by time: caches, page faults, thread wake-ups.
const WARM_UP_SECONDS: f64 = 0.5;

/// What can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// One Langevin step of a batch of chains.
    Langevin,
    /// One training step of the VAE.
    Stage1,
}

/// Times of consecutive steps.
#[derive(Clone, Debug, Serialize)]
pub struct Slot {
    /// What was timed.
    pub what: What,
    /// Milliseconds of each step.
    pub ms: Vec<f64>,
}

/// Figures of one kind of step.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Steps per second, from the median.
    pub steps_per_s: f64,
    /// Chains or images that these steps move per second.
    pub items_per_s: f64,
    /// Median milliseconds of a step.
    pub ms_median: f64,
    /// The 10% quantile.
    pub ms_q10: f64,
    /// The 90% quantile.
    pub ms_q90: f64,
    /// Steps timed.
    pub steps: usize,
    /// FLOPs of a step by the ops' cost rules.
    pub gflop: f64,
    /// FLOPs per second, from the median.
    pub gflop_per_s: f64,
    /// Bytes that the step's program takes, states apart, as its plan says.
    pub plan_bytes: usize,
}

/// Prepared steps of one model on a device.
pub struct Bench<'d> {
    device: &'d mut dyn Device,
    /// `None` for a model that has no stage 2.
    sampler: Option<Sampler>,
    stage1: ProgramId,
    config: Config,
    batch: usize,
    step: u32,
    window: Option<Window>,
}

/// The steps that an attached profiler records, counted from the first one submitted, warm-up included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first of them, from 0.
    pub from: u32,
    /// How many.
    pub steps: u32,
}

impl<'d> Bench<'d> {
    /// Prepares both steps for a batch; stage 1's alone if the model has no stage 2. Weights come from the configuration's seed, or
    /// from a checkpoint of stage 2.
    pub fn new(
        config: &Config,
        device: &'d mut dyn Device,
        batch: usize,
        weights: Option<&Checkpoint>,
    ) -> Result<Self, TrainError> {
        let model = Nvae::new(config.vae.clone(), config.data.size, config.data.channels);
        let record = train_step(
            &model,
            &config.train_vae,
            config.data.num_x_bits,
            batch,
            POWER_ITERATIONS[1],
            NoiseSource::Streams(0),
        );
        let states = StateList::of(VAE, &record);
        let stage1 = device.prepare(record.tape.plan("stage1/train"))?;
        states.start(device, config.run.seed)?;
        let sampler = match config.check_model(Stage::Ebm) {
            Ok(()) => Some(Self::sampler(config, device, &model, batch, weights)?),
            Err(_) => None,
        };
        let mut x = vec![0.0; model.image_shape(batch).len()];
        philox::fill_uniform(&mut x, config.run.seed, 0, 0, 0);
        device.feed(stage1, "x", &x)?;
        // A learning rate of zero keeps the weights, and with them the speed, as they are from step to step.
        for (name, value) in [
            ("lr", 0.0),
            ("t", 10.0),
            ("kl_coeff", 0.5),
            ("norm_coeff", 0.1),
        ] {
            device.feed(stage1, name, &[value])?;
        }
        Ok(Bench {
            device,
            sampler,
            stage1,
            config: config.clone(),
            batch,
            step: 0,
            window: None,
        })
    }

    /// Chains with their weights, started.
    fn sampler(
        config: &Config,
        device: &mut dyn Device,
        model: &Nvae,
        batch: usize,
        weights: Option<&Checkpoint>,
    ) -> Result<Sampler, TrainError> {
        let chains = Chains {
            model: model.clone(),
            ebm: config.ebm.clone(),
            n: batch,
            target: config.sample.target,
            temperature: 1.0,
        };
        let (vae_params, ebm_params) = chains.params();
        match weights {
            Some(checkpoint) => {
                StateList::restore_params(device, checkpoint, VAE, &vae_params)?;
                StateList::restore_params(device, checkpoint, EBM, &ebm_params)?;
            }
            None => initialise(device, EBM, &ebm_params, config.run.seed)?,
        }
        let sampler = Sampler::new(device, chains)?;
        sampler.start(device, Noise::default())?;
        Ok(sampler)
    }

    /// The device's name.
    pub fn device_name(&self) -> String {
        self.device.name()
    }

    fn program(&self, what: What) -> Result<ProgramId, TrainError> {
        Ok(match what {
            What::Langevin => chains_of(&self.sampler)?.step_program(),
            What::Stage1 => self.stage1,
        })
    }

    /// Opens a profiler's window for some of the steps to come.
    ///
    /// # Errors
    /// A device that no profiler looks at.
    pub fn capture(&mut self, window: Window) -> Result<(), TrainError> {
        // Closed to begin with, in case the profiler records from the start.
        self.device.profiler_window(false)?;
        self.window = Some(window);
        Ok(())
    }

    /// Whether the profiler's window lies behind: `false` while it is still to come or open.
    pub fn is_captured(&self) -> bool {
        self.window
            .is_none_or(|w| self.step >= w.from.saturating_add(w.steps))
    }

    /// Submits one step.
    ///
    /// # Errors
    /// A model without stage 2 has no Langevin step; a device that fails.
    pub fn step(&mut self, what: What) -> Result<(), TrainError> {
        let at = self.step;
        if self.window.is_some_and(|w| w.from == at) {
            self.device.profiler_window(true)?;
        }
        self.submit(what)?;
        if self
            .window
            .is_some_and(|w| w.from.checked_add(w.steps) == Some(at + 1))
        {
            self.device.profiler_window(false)?;
        }
        Ok(())
    }

    fn submit(&mut self, what: What) -> Result<(), TrainError> {
        let noise = Noise {
            seed: self.config.run.seed,
            step: self.step,
            first_sample: 0,
        };
        self.step = self.step.wrapping_add(1);
        match what {
            What::Langevin => {
                let sampler = chains_of(&self.sampler)?;
                sampler.advance(self.device, noise, 1, self.config.sample.step_size)?
            }
            What::Stage1 => self.device.run(self.stage1, noise)?,
        }
        Ok(())
    }

    /// Times steps for so many seconds, at least three of them. The first step of a slot is not counted.
    pub fn slot(&mut self, what: What, seconds: f64) -> Result<Slot, TrainError> {
        self.step(what)?;
        let mut ms = Vec::new();
        let started = Instant::now();
        while ms.len() < 3 || started.elapsed().as_secs_f64() < seconds {
            let clock = Instant::now();
            self.step(what)?;
            ms.push(clock.elapsed().as_secs_f64() * 1e3);
        }
        Ok(Slot { what, ms })
    }

    /// Warms up, then times steps for so many seconds.
    pub fn figures(&mut self, what: What, seconds: f64) -> Result<Figures, TrainError> {
        self.slot(what, WARM_UP_SECONDS)?;
        let mut ms = self.slot(what, seconds)?.ms;
        ms.sort_by(f64::total_cmp);
        let quantile = |q: f64| ms[((ms.len() - 1) as f64 * q).round() as usize];
        let plan = self.device.plan(self.program(what)?);
        let Cost { flops, .. } = plan.step_cost();
        let per_second = 1e3 / quantile(0.5);
        Ok(Figures {
            steps_per_s: per_second,
            items_per_s: per_second * self.batch as f64,
            ms_median: quantile(0.5),
            ms_q10: quantile(0.1),
            ms_q90: quantile(0.9),
            steps: ms.len(),
            gflop: flops / 1e9,
            gflop_per_s: flops / 1e9 * per_second,
            plan_bytes: plan.bytes(),
        })
    }

    /// Time, FLOPs and bytes of a step by node, in order: the median over a few runs, launched one by one and not as a graph.
    pub fn nodes(&mut self, what: What) -> Result<Vec<Timed>, TrainError> {
        self.slot(what, WARM_UP_SECONDS)?;
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
}

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

fn chains_of(sampler: &Option<Sampler>) -> Result<&Sampler, TrainError> {
    sampler.as_ref().ok_or_else(|| {
        TrainError::Mismatch("this model has no Langevin chains, only a stage 1".into())
    })
}

/// Runs that a profile takes the median of.
const PROFILE_RUNS: u32 = 7;

/// What one kernel takes of a step.
#[derive(Clone, Debug, Serialize)]
pub struct KernelTime {
    /// Its name.
    pub kernel: &'static str,
    /// Launches in a step.
    pub launches: usize,
    /// Milliseconds of all of them.
    pub ms: f64,
    /// FLOPs of all of them, in billions.
    pub gflop: f64,
    /// Bytes that they must move by the cost rules, in millions.
    pub mb: f64,
}
