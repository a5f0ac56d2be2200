//! Chains that are run to be measured: what `vaebm chains` does.

use std::time::Instant;

use serde::Serialize;

use super::diagnostics::{TraceError, Traces};
use super::potential::Potential;
use super::programs::{Chains, EBM};
use super::schedule::Annealing;
use super::transition::{POTENTIAL, Schedules, Transition};
use crate::checkpoint::Checkpoint;
use crate::config::{ChainsConfig, Config, Sampler};
use crate::device::Device;
use crate::nvae::Nvae;
use crate::run::{Event, Observer, StopFlag};
use crate::train::{StateList, TrainError, restore_decoder};

/// One number a draw of every chain.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What it is.
    pub name: String,
    /// Draw after draw, chain after chain: `[chains, draws]`.
    pub chains: Vec<Vec<f32>>,
}

/// What a trace says.
#[derive(Clone, Debug, Serialize)]
pub struct Quantity {
    /// What it is.
    pub name: String,
    /// Over all draws.
    pub mean: f64,
    /// Standard deviation of a draw.
    pub sd: f64,
    /// Monte Carlo standard error of the mean.
    pub mcse: f64,
    /// Effective sample size for location.
    pub ess_bulk: f64,
    /// Effective sample size for the tails.
    pub ess_tail: f64,
    /// Rank-normalised split R-hat.
    pub rhat: f64,
    /// Integrated autocorrelation time, in steps.
    pub autocorrelation_steps: f64,
    /// Effective draws (bulk) in a second of wall time, warm-up not counted.
    pub ess_per_second: f64,
}

/// Where chains were after so many steps.
#[derive(Clone, Debug, Serialize)]
pub struct Drift {
    /// Steps from the start.
    pub step: u64,
    /// Mean over chains of what is told of a place.
    pub means: Vec<f64>,
    /// Root mean square distance from the start of each group of the state.
    pub movement: Vec<f64>,
}

/// How proposals of MALA fared while draws were made.
#[derive(Clone, Debug, Serialize)]
pub struct Accepted {
    /// Share of accepted proposals.
    pub mean: f64,
    /// Of the chain with the fewest.
    pub lowest: f64,
    /// Of the chain with the most.
    pub highest: f64,
    /// The mean probability of acceptance.
    pub probability: f64,
}

/// The outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Study {
    /// How the chains moved.
    pub sampler: String,
    /// What they followed.
    pub target: String,
    /// Where.
    pub device: String,
    /// The seed of the noise.
    pub seed: u64,
    /// How many.
    pub chains: usize,
    /// Steps before the first draw.
    pub warmup: usize,
    /// Draws of each.
    pub draws: usize,
    /// Steps from one draw to the next.
    pub thin: usize,
    /// Step size eta at the first step.
    pub first_step_size: f64,
    /// Step size eta at the last step.
    pub step_size: f64,
    /// Wall time of the warm-up.
    pub seconds_warmup: f64,
    /// Wall time of the steps that draws were made of, reading them included.
    pub seconds: f64,
    /// Steps of chains in a second of that.
    pub chain_steps_per_second: f64,
    /// Of MALA.
    pub acceptance: Option<Accepted>,
    /// What the traces say.
    pub quantities: Vec<Quantity>,
    /// What [`Drift::means`] are of.
    pub told: Vec<String>,
    /// What [`Drift::movement`] is of.
    pub groups: Vec<String>,
    /// After 0, 1, 2, 4, .. steps from the start.
    pub drift: Vec<Drift>,
    /// The traces themselves.
    #[serde(skip)]
    pub traces: Vec<Trace>,
}

/// The chains of a trained run, with its networks on the device.
///
/// # Errors
/// A checkpoint of stage 1, or one that does not fit the configuration.
pub fn of_run(
    config: &Config,
    device: &mut dyn Device,
    checkpoint: &Checkpoint,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Chains, TrainError> {
    restore_decoder(config, device, checkpoint, observer, stop)?;
    let chains = Chains {
        model: Nvae::new(config.vae.clone(), config.data.size, config.data.channels),
        ebm: config.ebm.clone(),
        n: config.chains.num_chains,
        target: config.sample.target,
        temperature: config.sample.temperature,
    };
    StateList::restore_params(device, checkpoint, EBM, &chains.params().1)?;
    Ok(chains)
}

/// The schedules of a configuration: over the warm-up, or without one over all steps. `step_size` is what eta is where none is configured.
fn schedules(c: &ChainsConfig, step_size: f64) -> Schedules {
    let steps = match c.num_warmup {
        0 => c.num_draws * c.thin,
        warmup => warmup,
    };
    let of = |schedule, first: f64, last: Option<f64>| Annealing {
        schedule,
        first,
        last: last.unwrap_or(first),
        steps: steps as u64,
    };
    let first = c.step_size.unwrap_or(step_size);
    Schedules {
        step_size: of(c.step_schedule, first, c.step_size_end),
        noise_scale: of(c.noise_schedule, c.noise_scale, c.noise_scale_end),
    }
}

/// Chains under way.
struct Course<'a, P> {
    transition: Transition<P>,
    device: &'a mut dyn Device,
    observer: &'a mut dyn Observer,
    stop: &'a StopFlag,
    start: Vec<Vec<f32>>,
    drift: Vec<Drift>,
    /// Steps made.
    made: u64,
    /// Seconds of steps since the count began.
    seconds: f64,
}

/// Steps between two looks at whether to stop.
const PIECE: u64 = 64;

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

impl<P: Potential> Course<'_, P> {
    /// Makes steps, with a look wherever their number since the start is a power of two. Tells whether it was stopped.
    fn travel(&mut self, steps: u64) -> Result<bool, TrainError> {
        let end = self.made + steps;
        while self.made < end {
            if self.stop.is_requested() {
                return Ok(true);
            }
            let next_look = (self.made + 1).next_power_of_two();
            let now = (end - self.made).min(next_look - self.made).min(PIECE);
            let started = Instant::now();
            self.transition.advance(self.device, now)?;
            self.made += now;
            let looks = self.made == next_look;
            if looks {
                // The steps have been made only once something of them is read.
                self.transition.last(self.device)?;
            }
            self.seconds += started.elapsed().as_secs_f64();
            if looks {
                self.look()?;
            }
            self.observer.event(Event::Step {
                step: self.made,
                scalars: &[],
            });
        }
        Ok(false)
    }

    /// Reads what the last step told, which takes until it has been made.
    fn last(&mut self) -> Result<Vec<Vec<f32>>, TrainError> {
        let started = Instant::now();
        let told = self.transition.last(self.device)?;
        self.seconds += started.elapsed().as_secs_f64();
        Ok(told)
    }

    /// Reads the states that have coordinates to trace.
    fn coordinates(&mut self, coordinates: &[usize]) -> Result<Vec<Vec<f32>>, TrainError> {
        if coordinates.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let state = self.transition.positions(self.device)?.swap_remove(0);
        let row = state.len() / self.transition.potential().chains();
        let columns = coordinates
            .iter()
            .map(|i| state.chunks_exact(row).map(|x| x[*i]).collect())
            .collect();
        self.seconds += started.elapsed().as_secs_f64();
        Ok(columns)
    }

    /// Notes where the chains are.
    fn look(&mut self) -> Result<(), TrainError> {
        let told = self.transition.look(self.device)?;
        let here = self.transition.positions(self.device)?;
        if self.made == 0 {
            self.start.clone_from(&here);
        }
        let means = told.iter().map(|v| mean(v.iter().map(|v| f64::from(*v))));
        let groups = here.iter().zip(&self.start);
        let movement = groups.map(|(x, start)| {
            let squares = x.iter().zip(start).map(|(a, b)| f64::from(a - b).powi(2));
            mean(squares.collect::<Vec<f64>>().into_iter()).sqrt()
        });
        let mut means: Vec<f64> = means.collect();
        // The energy comes first; what is told of it is the log-density.
        means[0] = -means[0];
        self.drift.push(Drift {
            step: self.made,
            means,
            movement: movement.collect(),
        });
        Ok(())
    }
}

/// Runs chains of `potential` as `config.chains` says and measures them; `target` names it for people, and `step_size` is eta where none is
/// configured. `None` if it was stopped.
///
/// # Errors
/// Chains that do not fit in memory, and traces with numbers that are not finite.
pub fn study<P: Potential>(
    config: &Config,
    potential: P,
    target: String,
    step_size: f64,
    device: &mut dyn Device,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Option<Study>, TrainError> {
    let c = &config.chains;
    let (mala, thin) = (c.sampler == Sampler::Mala, c.thin as u64);
    let schedules = schedules(c, step_size);
    let coordinates = potential.coordinates();
    let groups: Vec<String> = (potential.states().iter())
        .map(|(name, _)| {
            name.split_once('.')
                .map_or(name.as_str(), |n| n.1)
                .to_owned()
        })
        .collect();
    let mut transition = Transition::new(device, potential, c.sampler, c.target_accept)?;
    transition.start(device, config.run.seed, schedules)?;
    let told: Vec<String> = (transition.told(device).into_iter())
        .map(|name| match name.as_str() {
            POTENTIAL => "log_density".to_owned(),
            _ => name,
        })
        .collect();
    let names = coordinates.iter().map(|i| format!("x[{i}]"));
    let mut traces: Vec<Trace> = (told.iter().cloned().chain(names))
        .map(|name| Trace {
            name,
            chains: vec![Vec::with_capacity(c.num_draws); c.num_chains],
        })
        .collect();
    let total = c.num_warmup as u64 + c.num_draws as u64 * thin;
    let began = Instant::now();
    observer.event(Event::PhaseStarted {
        name: "moving chains",
        total: Some(total),
        done: 0,
    });
    let mut course = Course {
        transition,
        device,
        observer,
        stop,
        start: Vec::new(),
        drift: Vec::new(),
        made: 0,
        seconds: 0.0,
    };
    course.look()?;
    if mala && c.adapt && c.num_warmup > 0 {
        course.transition.adapt(course.device)?;
    }
    if course.travel(c.num_warmup as u64)? {
        return Ok(None);
    }
    if mala {
        course.transition.settle(course.device)?;
        course.transition.count_anew(course.device)?;
    }
    if c.num_warmup > 0 {
        course.last()?;
    }
    let seconds_warmup = std::mem::take(&mut course.seconds);
    for _ in 0..c.num_draws {
        // ULA tells of the place that its last step left, MALA of that where it arrived: coordinates are of the same.
        let before = if mala { thin } else { thin - 1 };
        if course.travel(before)? {
            return Ok(None);
        }
        let columns = course.coordinates(&coordinates)?;
        if course.travel(thin - before)? {
            return Ok(None);
        }
        let numbers = course.last()?.into_iter().chain(columns);
        for (i, (trace, numbers)) in traces.iter_mut().zip(numbers).enumerate() {
            for (chain, number) in trace.chains.iter_mut().zip(numbers) {
                chain.push(if i == 0 { -number } else { number });
            }
        }
    }
    let seconds = course.seconds;
    let Course {
        transition,
        device,
        observer,
        drift,
        ..
    } = course;
    let steps = c.num_draws as u64 * thin;
    let (last_step_size, acceptance) = match mala {
        true => {
            let counted = transition.acceptance(device, steps)?;
            let extreme = |f: fn(f64, f64) -> f64| counted.accepted.iter().copied().reduce(f);
            let accepted = Accepted {
                mean: mean(counted.accepted.iter().copied()),
                lowest: extreme(f64::min).unwrap_or(0.0),
                highest: extreme(f64::max).unwrap_or(0.0),
                probability: mean(counted.probability.iter().copied()),
            };
            (transition.step_size(device)?, Some(accepted))
        }
        false => (schedules.step_size.at(total - 1), None),
    };
    transition.release(device);
    let quantities = traces
        .iter()
        .map(|trace| quantity(trace, thin, seconds, last_step_size));
    let quantities = quantities.collect::<Result<_, TrainError>>()?;
    observer.event(Event::PhaseEnded {
        seconds: began.elapsed().as_secs_f64(),
    });
    Ok(Some(Study {
        sampler: c.sampler.to_string(),
        target,
        device: device.name(),
        seed: config.run.seed,
        chains: c.num_chains,
        warmup: c.num_warmup,
        draws: c.num_draws,
        thin: c.thin,
        first_step_size: schedules.step_size.at(0),
        step_size: last_step_size,
        seconds_warmup,
        seconds,
        chain_steps_per_second: steps as f64 * c.num_chains as f64 / seconds,
        acceptance,
        quantities,
        told,
        groups,
        drift,
        traces,
    }))
}

fn quantity(
    trace: &Trace,
    thin: u64,
    seconds: f64,
    step_size: f64,
) -> Result<Quantity, TrainError> {
    let chains: Vec<Vec<f64>> = (trace.chains.iter())
        .map(|chain| chain.iter().map(|v| f64::from(*v)).collect())
        .collect();
    let traces = Traces::new(&chains).map_err(|source: TraceError| TrainError::Trace {
        name: trace.name.clone(),
        source,
        step_size,
    })?;
    let ess_bulk = traces.ess_bulk();
    Ok(Quantity {
        name: trace.name.clone(),
        mean: traces.mean(),
        sd: traces.deviation(),
        mcse: traces.mcse_mean(),
        ess_bulk,
        ess_tail: traces.ess_tail(),
        rhat: traces.rhat(),
        autocorrelation_steps: traces.autocorrelation_time() * thin as f64,
        ess_per_second: ess_bulk / seconds,
    })
}
