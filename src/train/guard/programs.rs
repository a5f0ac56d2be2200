//! What the guard adds to the programs of a step.

use super::records::{self, Record};
use crate::config::{self, Stage};
use crate::langevin::programs::Chains;
use crate::ops::Var;
use crate::ops::binary::mul;
use crate::ops::guard::{
    JudgeSettings, TRIPPED, Watch, clamped, distance, judge, keep, norm, put_back,
};
use crate::ops::state::assign;
use crate::tape::Tape;
use crate::tensor::Shape;

/// The name of the chains' movement among the watched numbers.
pub const MOVEMENT: &str = "movement";

/// What a stage watches, and how its verdicts are read.
#[derive(Clone, Debug)]
pub struct Judgement {
    settings: JudgeSettings,
    names: &'static [&'static str],
    /// The name of the state that holds verdicts and past values.
    pub state: String,
}

impl Judgement {
    /// Stage 1 looks for what is not finite alone: its loss and gradients change with the schedules of KL and learning rate, and have
    /// always come back. Stage 2 compares with the past as well.
    pub fn new(config: &config::Guard, stage: Stage) -> Self {
        let free = Watch {
            log: false,
            both: false,
            floor: 1.0,
            relative: 0.0,
            limit: f64::INFINITY,
        };
        // By factors: a tenth up or down is nothing.
        let factor = Watch {
            log: true,
            floor: 0.1,
            ..free
        };
        let (names, watches, threshold): (&[&str], _, _) = match stage {
            Stage::Vae => (&["loss", "grad_norm"], vec![free; 2], 0.0),
            Stage::Ebm => (
                &["energy_gap", "grad_norm", "clamped", MOVEMENT],
                vec![
                    Watch {
                        both: true,
                        floor: 0.02,
                        relative: 0.05,
                        limit: config.max_gap,
                        ..free
                    },
                    factor,
                    Watch {
                        floor: 0.01,
                        ..free
                    },
                    Watch {
                        limit: config.max_movement,
                        ..factor
                    },
                ],
                config.threshold,
            ),
        };
        Judgement {
            settings: JudgeSettings {
                watches,
                window: config.window,
                warmup: config.warmup,
                threshold,
                patience: config.patience,
                records: config.every as usize,
            },
            names,
            state: format!("guard.{}", stage.name()),
        }
    }

    /// The shape of the state.
    pub fn shape(&self) -> Shape {
        self.settings.layout().shape()
    }

    /// The records of steps after `after` up to `until`, and whether the guard has tripped.
    pub fn read(&self, state: &[f32], after: u64, until: u64) -> (Vec<Record>, bool) {
        let records = records::read(state, self.settings.layout(), self.names, after, until);
        (records, state[TRIPPED] != 0.0)
    }

    /// Records the verdict on a step whose watched numbers are these and puts `kept` states back if it is bad. Gives the number of the step
    /// for the optimiser: 0 for a step that must not be applied.
    fn record(&self, tape: &Tape, values: &[Var], t: Var, kept: &Kept) -> Var {
        let state = tape.state(&self.state, self.shape());
        let [apply, _] = judge(tape, values, t, state, self.settings.clone());
        put_back(tape, &kept.states, &kept.copies, apply);
        tape.output("apply", apply);
        mul(tape, t, apply)
    }

    /// The verdict on a step of stage 1.
    pub fn stage1(&self, tape: &Tape, loss: Var, grads: &[Var], t: Var, kept: &Kept) -> Var {
        self.record(tape, &[loss, norm(tape, grads)], t, kept)
    }

    /// The verdict on a step of stage 2. `gap` is the difference of energies, `negatives` are the images at the chains' ends, and `ends` the
    /// chains' states there.
    pub fn stage2(
        &self,
        tape: &Tape,
        chains: &Chains,
        [gap, negatives, t]: [Var; 3],
        [grads, ends]: [&[Var]; 2],
        kept: &Kept,
    ) -> Var {
        let starts: Vec<Var> = starts(chains)
            .iter()
            .map(|(name, shape)| tape.state(name, *shape))
            .collect();
        let values = [
            gap,
            norm(tape, grads),
            clamped(tape, negatives),
            distance(tape, ends, &starts),
        ];
        self.record(tape, &values, t, kept)
    }
}

/// States that a step changes before its verdict is known, with copies from before.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    states: Vec<Var>,
    copies: Vec<Var>,
}

impl Kept {
    /// Copies these states as they are now, besides what is kept already.
    pub fn add(&mut self, tape: &Tape, states: &[Var]) {
        self.copies.extend(keep(tape, states));
        self.states.extend(states);
    }
}

/// Where the states of chains are kept as they were when an iteration's steps began.
fn starts(chains: &Chains) -> Vec<(String, Shape)> {
    let start = |(name, shape): (String, Shape)| (format!("guard.{name}"), shape);
    chains.states().into_iter().map(start).collect()
}

/// The program that keeps where the chains are, from which their movement counts.
pub fn remember(chains: &Chains) -> Tape {
    let tape = Tape::new();
    for ((name, shape), (start, _)) in chains.states().iter().zip(starts(chains)) {
        assign(&tape, tape.state(&start, *shape), tape.state(name, *shape));
    }
    tape
}
