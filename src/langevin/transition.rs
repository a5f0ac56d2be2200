//! The transitions of a chain as programs over any density: unadjusted Langevin (ULA) and Metropolis-adjusted Langevin (MALA).
//!
//! - ULA: `x <- x - eta/2 dU/dx + c sqrt(eta) N(0, 1)`; its stationary law is `exp(-U)` up to a bias that vanishes with eta.
//! - MALA: the same with `c = 1` as a proposal that is accepted or not, so that the stationary law is `exp(-U)`; of a warm-up, eta
//!   adapts to an acceptance ([`crate::ops::mala`]).
//!
//! Both evaluate the gradient once a step: MALA keeps that of the place where a chain is.

use super::potential::{Potential, Recorded};
use super::programs::STEP_STREAM;
use super::schedule::Annealing;
use crate::config::Sampler;
use crate::device::{Device, ProgramId};
use crate::ops::Var;
use crate::ops::langevin::{LangevinNoise, annealed_update, langevin_update};
use crate::ops::mala::{AVERAGES, Point, Rule, accept, adapt, averaged_step_size, averages_from};
use crate::ops::state::assign;
use crate::program::{Noise, Plan};
use crate::tape::{Tape, plans_within};
use crate::tensor::Shape;
use crate::train::TrainError;

/// The stream of the uniform numbers that MALA's decisions draw.
const DECISION_STREAM: u32 = 6 << 16;
/// The name of the energy among what a program tells.
pub const POTENTIAL: &str = "potential";
const STEP_SIZE: &str = "mala.step_size";
const AVERAGE: &str = "mala.averages";
const TALLY: &str = "mala.tally";
/// Steps that go to the device as one submission.
const AT_ONCE: u64 = 64;

/// Chains of a density with the programs that move them.
pub struct Transition<P> {
    potential: P,
    sampler: Sampler,
    start: ProgramId,
    step: ProgramId,
    look: ProgramId,
    seed: u64,
    schedules: Schedules,
    /// Steps made since the start: what the noise of the next one is counted by.
    made: u64,
}

/// How a chain's steps change along it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedules {
    /// The step size eta.
    pub step_size: Annealing,
    /// The factor of ULA's noise.
    pub noise_scale: Annealing,
}

impl Schedules {
    /// Steps of one size, with the noise as it is.
    pub fn constant(step_size: f64) -> Self {
        Schedules {
            step_size: Annealing::constant(step_size),
            noise_scale: Annealing::constant(1.0),
        }
    }
}

/// The acceptance of MALA's proposals since it was counted anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Acceptance {
    /// The mean probability of acceptance, chain by chain.
    pub probability: Vec<f64>,
    /// The share of accepted proposals, chain by chain.
    pub accepted: Vec<f64>,
}

/// Names and variables of what belongs to MALA's chains beside their positions.
struct Kept {
    proposal: Vec<Var>,
    gradient: Vec<Var>,
    summands: Vec<Var>,
    carried: Vec<Var>,
    tally: Var,
    step_size: Var,
    averages: Var,
}

fn tally_shape(chains: usize) -> Shape {
    Shape::new(&[chains, 2])
}

/// MALA's states for what `recorded` holds.
fn kept<P: Potential>(tape: &Tape, potential: &P, recorded: &Recorded) -> Kept {
    let n = potential.chains();
    let states = potential.states();
    let beside = |what: &str| -> Vec<Var> {
        states
            .iter()
            .map(|(name, shape)| tape.state(&format!("mala.{what}.{name}"), *shape))
            .collect()
    };
    let numbers = |what: &str, count: usize| -> Vec<Var> {
        (0..count)
            .map(|i| tape.state(&format!("mala.{what}.{i}"), Shape::new(&[n])))
            .collect()
    };
    Kept {
        proposal: beside("proposal"),
        gradient: beside("gradient"),
        summands: numbers("summand", recorded.summands.len()),
        carried: numbers("carried", recorded.told.len() + 1),
        tally: tape.state(TALLY, tally_shape(n)),
        step_size: tape.state(STEP_SIZE, Shape::SCALAR),
        averages: tape.state(AVERAGE, Shape::new(&[AVERAGES])),
    }
}

fn positions<P: Potential>(tape: &Tape, potential: &P) -> Vec<Var> {
    let states = potential.states();
    states
        .iter()
        .map(|(name, shape)| tape.state(name, *shape))
        .collect()
}

/// What is told of a place, the energy first.
fn told(recorded: &Recorded) -> Vec<(&'static str, Var)> {
    let mut told = vec![(POTENTIAL, recorded.total)];
    told.extend(&recorded.told);
    told
}

fn ula_step<P: Potential>(potential: &P) -> Tape {
    let tape = Tape::new();
    let x = positions(&tape, potential);
    let [eta, scale] = ["step_size", "noise_scale"].map(|name| tape.feed(name, Shape::SCALAR));
    let recorded = potential.record(&tape, &x);
    let gradient = tape.grad(recorded.total, &x);
    for (name, number) in told(&recorded) {
        tape.output(name, number);
    }
    let noise = LangevinNoise::Philox {
        first_stream: STEP_STREAM,
    };
    annealed_update(&tape, &x, &gradient, eta, scale, noise);
    potential.confine(&tape, &x);
    tape
}

fn mala_step<P: Potential>(potential: &P, target_accept: f64) -> Tape {
    // What a place has is known once one is recorded.
    let described = {
        let scratch = Tape::new();
        potential.record(&scratch, &positions(&scratch, potential))
    };
    let tape = Tape::new();
    let x = positions(&tape, potential);
    let own = kept(&tape, potential, &described);
    let adapting = tape.feed("adapting", Shape::SCALAR);
    for (proposal, x) in own.proposal.iter().zip(&x) {
        assign(&tape, *proposal, *x);
    }
    let noise = LangevinNoise::Philox {
        first_stream: STEP_STREAM,
    };
    langevin_update(&tape, &own.proposal, &own.gradient, own.step_size, noise);
    let recorded = potential.record(&tape, &own.proposal);
    let gradient = tape.grad(recorded.total, &own.proposal);
    let names: Vec<(&str, Var)> = told(&recorded);
    let carried: Vec<Var> = names.iter().map(|(_, number)| *number).collect();
    let [log_alpha, _] = accept(
        &tape,
        Point {
            position: &x,
            gradient: &own.gradient,
            summands: &own.summands,
            carried: &own.carried,
        },
        Point {
            position: &own.proposal,
            gradient: &gradient,
            summands: &recorded.summands,
            carried: &carried,
        },
        own.tally,
        own.step_size,
        Rule {
            stream: DECISION_STREAM,
            standard_normal: recorded.standard_normal,
        },
    );
    adapt(
        &tape,
        log_alpha,
        adapting,
        own.step_size,
        own.averages,
        target_accept,
    );
    for ((name, _), number) in names.iter().zip(&own.carried) {
        tape.output(name, *number);
    }
    tape
}

/// What is known of the place where the chains are; for MALA it is kept as well, with the gradient.
fn look<P: Potential>(potential: &P, sampler: Sampler) -> Tape {
    let tape = Tape::new();
    let x = positions(&tape, potential);
    let recorded = potential.record(&tape, &x);
    let told = told(&recorded);
    for (name, number) in &told {
        tape.output(name, *number);
    }
    if sampler == Sampler::Mala {
        let gradient = tape.grad(recorded.total, &x);
        let own = kept(&tape, potential, &recorded);
        let numbers = told.iter().map(|(_, number)| number);
        let from = gradient.iter().chain(&recorded.summands).chain(numbers);
        let to = own.gradient.iter().chain(&own.summands).chain(&own.carried);
        for (to, from) in to.zip(from) {
            assign(&tape, *to, *from);
        }
    }
    tape
}

impl<P: Potential> Transition<P> {
    /// Prepares the programs. `target_accept` is what MALA's warm-up adapts to.
    ///
    /// # Errors
    /// Chains that do not fit in memory together.
    pub fn new(
        device: &mut dyn Device,
        potential: P,
        sampler: Sampler,
        target_accept: f64,
    ) -> Result<Self, TrainError> {
        let plans = |n: usize| -> [Plan; 3] {
            let potential = potential.resized(n);
            let step = match sampler {
                Sampler::Ula => ula_step(&potential).plan("chains/ula"),
                Sampler::Mala => mala_step(&potential, target_accept).plan("chains/mala"),
            };
            [
                potential.start().plan("chains/start"),
                step,
                look(&potential, sampler).plan("chains/look"),
            ]
        };
        let [start, step, look] =
            plans_within(plans, potential.chains(), device.available_bytes())?;
        Ok(Transition {
            start: device.prepare(start)?,
            step: device.prepare(step)?,
            look: device.prepare(look)?,
            potential,
            sampler,
            seed: 0,
            schedules: Schedules::constant(0.0),
            made: 0,
        })
    }

    /// The density.
    pub fn potential(&self) -> &P {
        &self.potential
    }

    /// Starts all chains. Of the schedules, which count from here, MALA takes the first step size.
    pub fn start(
        &mut self,
        device: &mut dyn Device,
        seed: u64,
        schedules: Schedules,
    ) -> Result<(), TrainError> {
        (self.seed, self.made, self.schedules) = (seed, 0, schedules);
        device.run(self.start, self.noise())?;
        if self.sampler == Sampler::Mala {
            device.run(self.look, self.noise())?;
            let step_size = schedules.step_size.at(0);
            device.write_state(STEP_SIZE, &[step_size as f32])?;
            device.write_state(AVERAGE, &averages_from(step_size))?;
            device.feed(self.step, "adapting", &[0.0])?;
            self.count_anew(device)?;
        }
        Ok(())
    }

    fn noise(&self) -> Noise {
        Noise {
            seed: self.seed,
            step: self.made as u32,
            first_sample: 0,
        }
    }

    /// Makes so many steps.
    pub fn advance(&mut self, device: &mut dyn Device, steps: u64) -> Result<(), TrainError> {
        let Schedules {
            step_size,
            noise_scale,
        } = self.schedules;
        let ula = self.sampler == Sampler::Ula;
        // A schedule is fed step by step; what is constant goes to the device at once.
        let constant = step_size.is_constant() && noise_scale.is_constant();
        let most = if ula && !constant { 1 } else { AT_ONCE };
        let mut left = steps;
        while left > 0 {
            let now = left.min(most);
            if ula {
                for (name, schedule) in [("step_size", step_size), ("noise_scale", noise_scale)] {
                    device.feed(self.step, name, &[schedule.at(self.made) as f32])?;
                }
            }
            device.run_steps(self.step, self.noise(), now as u32)?;
            self.made += now;
            left -= now;
        }
        Ok(())
    }

    /// Lets MALA's step size adapt from now on.
    pub fn adapt(&self, device: &mut dyn Device) -> Result<(), TrainError> {
        Ok(device.feed(self.step, "adapting", &[1.0])?)
    }

    /// Ends the adaptation: from now on the step size is the averaged one.
    pub fn settle(&self, device: &mut dyn Device) -> Result<(), TrainError> {
        device.feed(self.step, "adapting", &[0.0])?;
        if let Some(step_size) = averaged_step_size(&device.read_state(AVERAGE)?) {
            device.write_state(STEP_SIZE, &[step_size as f32])?;
        }
        Ok(())
    }

    /// MALA's step size.
    pub fn step_size(&self, device: &mut dyn Device) -> Result<f64, TrainError> {
        Ok(device.read_state(STEP_SIZE)?[0].into())
    }

    /// Forgets the proposals counted so far.
    pub fn count_anew(&self, device: &mut dyn Device) -> Result<(), TrainError> {
        let zeros = vec![0.0; tally_shape(self.potential.chains()).len()];
        Ok(device.write_state(TALLY, &zeros)?)
    }

    /// How MALA's last `steps` proposals fared, since they were counted anew.
    pub fn acceptance(
        &self,
        device: &mut dyn Device,
        steps: u64,
    ) -> Result<Acceptance, TrainError> {
        let tally = device.read_state(TALLY)?;
        let of = |i: usize| {
            let numbers = tally.chunks_exact(2);
            numbers.map(|t| f64::from(t[i]) / steps as f64).collect()
        };
        Ok(Acceptance {
            probability: of(0),
            accepted: of(1),
        })
    }

    /// The names of what is told of a place, the energy first.
    pub fn told(&self, device: &dyn Device) -> Vec<String> {
        let outputs = &device.plan(self.look).outputs;
        outputs.iter().map(|o| o.name.clone()).collect()
    }

    /// What the last step told, `[n]` for each name: ULA of the place that it left, MALA of that where it ended.
    pub fn last(&self, device: &mut dyn Device) -> Result<Vec<Vec<f32>>, TrainError> {
        self.fetch(device, self.step)
    }

    /// What is to be told of where the chains are, as [`Transition::last`].
    pub fn look(&self, device: &mut dyn Device) -> Result<Vec<Vec<f32>>, TrainError> {
        device.run(self.look, Noise::default())?;
        self.fetch(device, self.look)
    }

    fn fetch(
        &self,
        device: &mut dyn Device,
        program: ProgramId,
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        let mut numbers = Vec::new();
        for name in self.told(device) {
            numbers.push(device.fetch(program, &name)?);
        }
        Ok(numbers)
    }

    /// The chains' states.
    pub fn positions(&self, device: &mut dyn Device) -> Result<Vec<Vec<f32>>, TrainError> {
        let mut states = Vec::new();
        for (name, _) in self.potential.states() {
            states.push(device.read_state(&name)?);
        }
        Ok(states)
    }

    /// Frees the programs.
    pub fn release(self, device: &mut dyn Device) {
        for program in [self.start, self.step, self.look] {
            device.release(program);
        }
    }
}
