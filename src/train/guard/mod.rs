//! The divergence guard: verdicts on every step, made on the device, and what a training loop does about them.
//!
//! The update program judges its own step ([`programs`]) and withholds the update of a bad one in the same run, so that nothing that is
//! not finite is ever applied. The host looks at the verdicts every `guard.every` steps, and before it saves anything. A run of bad steps
//! is a divergence: the loop goes back to its last good checkpoint, or to its start, with other noise and a remedy, and after so many
//! rollbacks it gives up. Everything that decides how a run goes on is in its checkpoints, so that a resumed run is the run.

pub(crate) mod programs;
mod records;

use crate::checkpoint::{Checkpoint, Header, Store};
use crate::config::{self, Remedy, Stage};
use crate::device::Device;
use crate::run::{Event, Observer};
use crate::tensor::Shape;

use super::TrainError;
use programs::Judgement;
use records::Record;

/// The entries of a checkpoint's header.
const GOOD: &str = "guard_good";
const ROLLBACKS: &str = "guard_rollbacks";
const LR: &str = "guard_lr";
const NORM: &str = "guard_norm";
const STEP_SIZE: &str = "guard_step_size";

/// Why a run went back.
#[derive(Clone, Debug)]
pub(crate) struct Trip {
    /// The last of the bad steps.
    pub step: u64,
    /// What was wrong with it.
    pub complaint: String,
    /// Whether the chains themselves moved too far.
    pub chains: bool,
    figures: Vec<(String, f64)>,
}

/// A stage's guard: what its loop has to remember. With the guard turned off it does nothing.
pub(crate) struct Guard {
    settings: config::Guard,
    judgement: Judgement,
    /// Steps up to here have been looked at.
    seen: u64,
    /// Whether the last step looked at was a good one.
    calm: bool,
    /// The step of the checkpoint to go back to; 0 is the start.
    good: u64,
    rollbacks: u64,
    /// Factors that rollbacks have come to, of learning rate, regularisation and Langevin step size.
    pub lr: f64,
    pub norm: f64,
    pub step_size: f64,
}

impl Guard {
    /// A guard at the start of a run.
    pub fn new(settings: &config::Guard, stage: Stage) -> Self {
        Guard {
            settings: settings.clone(),
            judgement: Judgement::new(settings, stage),
            seen: 0,
            calm: true,
            good: 0,
            rollbacks: 0,
            lr: 1.0,
            norm: 1.0,
            step_size: 1.0,
        }
    }

    /// Whether it watches at all.
    pub fn enabled(&self) -> bool {
        self.settings.enabled
    }

    /// The state of its verdicts, to be saved with the rest.
    pub fn states(&self) -> Vec<(String, Shape)> {
        match self.enabled() {
            true => vec![(self.judgement.state.clone(), self.judgement.shape())],
            false => Vec::new(),
        }
    }

    /// Forgets all verdicts.
    pub fn start(&mut self, device: &mut dyn Device) -> Result<(), TrainError> {
        (self.seen, self.calm) = (0, true);
        for (name, shape) in self.states() {
            device.declare_state(&name, shape)?;
            device.write_state(&name, &vec![0.0; shape.len()])?;
        }
        Ok(())
    }

    /// Takes up the verdicts of a checkpoint; one without them, or with a window of another size, begins anew.
    pub fn restore_verdicts(
        &mut self,
        device: &mut dyn Device,
        checkpoint: &Checkpoint,
    ) -> Result<(), TrainError> {
        self.start(device)?;
        self.seen = checkpoint.header().step;
        for (name, shape) in self.states() {
            if checkpoint.shape(&name) == Some(shape.dims()) {
                device.write_state(&name, checkpoint.tensor(&name)?.1)?;
            }
        }
        Ok(())
    }

    /// Takes up where a checkpoint's run stood.
    pub fn restore(
        &mut self,
        device: &mut dyn Device,
        checkpoint: &Checkpoint,
    ) -> Result<(), TrainError> {
        self.restore_verdicts(device, checkpoint)?;
        let Header {
            step, ints, floats, ..
        } = checkpoint.header();
        // A checkpoint from before there were guards is one to go back to.
        self.good = ints.get(GOOD).copied().unwrap_or(*step).min(*step);
        self.rollbacks = ints.get(ROLLBACKS).copied().unwrap_or(0);
        let factor = |name: &str| floats.get(name).copied().unwrap_or(1.0);
        (self.lr, self.norm, self.step_size) = (factor(LR), factor(NORM), factor(STEP_SIZE));
        Ok(())
    }

    /// Writes where the run stands into a header.
    pub fn note(&self, header: &mut Header) {
        let Header { ints, floats, .. } = header;
        ints.insert(GOOD.into(), self.good);
        ints.insert(ROLLBACKS.into(), self.rollbacks);
        for (name, factor) in [
            (LR, self.lr),
            (NORM, self.norm),
            (STEP_SIZE, self.step_size),
        ] {
            floats.insert(name.into(), factor);
        }
    }

    /// The step of the checkpoint to go back to; 0 is the start.
    pub fn good(&self) -> u64 {
        self.good
    }

    /// Takes the checkpoint that is about to be saved after `step` for one to go back to, if its step falls due by the plan, so that a
    /// run that was stopped elsewhere goes back to the same place, and if nothing is the matter.
    pub fn consider(&mut self, step: u64, save_every: u64) {
        if self.calm && save_every > 0 && step.is_multiple_of(save_every) {
            self.good = step;
        }
    }

    /// The seed of the noise: another one after every rollback.
    pub fn seed(&self, seed: u64) -> u64 {
        seed ^ self.rollbacks.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Whether the verdicts are to be looked at after this step.
    pub fn is_due(&self, step: u64) -> bool {
        self.enabled() && step.is_multiple_of(self.settings.every)
    }

    /// Looks at the verdicts on the steps up to `step`: tells of withheld updates, and whether the run has diverged.
    pub fn look(
        &mut self,
        device: &mut dyn Device,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<Option<Trip>, TrainError> {
        if !self.enabled() || self.seen >= step {
            return Ok(None);
        }
        let state = device.read_state(&self.judgement.state)?;
        let (records, tripped) = self.judgement.read(&state, self.seen, step);
        self.seen = step;
        self.calm = records.last().is_none_or(Record::is_good);
        for record in records.iter().filter(|r| !r.is_good()) {
            observer.event(Event::Guard {
                step: record.step,
                back_to: None,
                scalars: &as_scalars(&record.figures()),
                text: &format!(
                    "guard: step {}: {}; its update was left out",
                    record.step,
                    record.complaint()
                ),
            });
        }
        let last = records.into_iter().rfind(|r| !r.is_good());
        Ok(last.filter(|_| tripped).map(|record| Trip {
            step: record.step,
            complaint: record.complaint(),
            chains: record.blames(programs::MOVEMENT),
            figures: record.figures(),
        }))
    }

    /// Decides what a divergence leads to: a rollback to [`Guard::good`], which the loop carries out, or the end.
    ///
    /// # Errors
    /// As many rollbacks as are allowed have been made.
    pub fn respond(
        &mut self,
        trip: &Trip,
        store: &Store,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let s = &self.settings;
        if self.rollbacks >= s.max_rollbacks {
            let best = match store.best()? {
                Some(best) => Some(best),
                None => store.last()?,
            };
            return Err(TrainError::GaveUp {
                step: trip.step,
                complaint: trip.complaint.clone(),
                rollbacks: self.rollbacks,
                best,
            });
        }
        self.rollbacks += 1;
        let mut remedies = vec!["other noise".to_owned()];
        match s.remedy {
            Remedy::LearningRate => {
                self.lr *= s.lr_factor;
                remedies.push(format!("{} of the learning rate", self.lr));
            }
            Remedy::Regularisation => {
                self.norm *= s.norm_factor;
                remedies.push(format!("{} times the regularisation", self.norm));
            }
        }
        if trip.chains {
            self.step_size *= s.step_factor;
            remedies.push(format!("{} of the Langevin step size", self.step_size));
        }
        let place = match self.good {
            0 => "the start".to_owned(),
            step => format!("step {step}"),
        };
        let mut figures = trip.figures.clone();
        figures.extend([
            ("rollbacks".to_owned(), self.rollbacks as f64),
            ("lr_factor".to_owned(), self.lr),
            ("norm_factor".to_owned(), self.norm),
            ("step_size_factor".to_owned(), self.step_size),
        ]);
        observer.event(Event::Guard {
            step: trip.step,
            back_to: Some(self.good),
            scalars: &as_scalars(&figures),
            text: &format!(
                "guard: diverged at step {} ({}): back to {place} with {} (rollback {} of {})",
                trip.step,
                trip.complaint,
                remedies.join(" and "),
                self.rollbacks,
                s.max_rollbacks
            ),
        });
        Ok(())
    }
}

fn as_scalars(figures: &[(String, f64)]) -> Vec<(&str, f64)> {
    figures.iter().map(|(n, v)| (n.as_str(), *v)).collect()
}
