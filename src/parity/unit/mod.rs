//! The tests of `unit`: single operations, cells, distributions, optimisers.

pub(super) mod cells;
pub(super) mod distributions;
pub(super) mod ops;
pub(super) mod optimisers;
pub(super) mod schedules;

use super::ParityError;
use super::array::Array;
use super::machine::Machine;
use crate::device::ProgramId;
use crate::ops::Var;
use crate::tape::Tape;
use crate::tensor::Shape;

/// A small recorded step with its inputs, all in the engine's layout.
#[derive(Default)]
struct Step {
    tape: Tape,
    feeds: Vec<(String, Vec<f64>)>,
    states: Vec<(String, Shape, Vec<f64>)>,
}

impl Step {
    /// An input.
    fn feed(&mut self, name: &str, array: &Array) -> Var {
        self.feeds.push((name.to_owned(), array.data.clone()));
        self.tape.feed(name, array.shape())
    }

    /// A state that starts with these numbers.
    fn state(&mut self, name: &str, array: &Array) -> Var {
        let state = (name.to_owned(), array.shape(), array.data.clone());
        self.states.push(state);
        self.tape.state(name, array.shape())
    }

    /// Makes the device's states, and runs the step once.
    fn run(&self, m: &mut Machine) -> Result<ProgramId, ParityError> {
        for (name, shape, data) in &self.states {
            m.write(name, *shape, data)?;
        }
        let program = m.prepare(&self.tape, "parity/unit")?;
        for (name, data) in &self.feeds {
            m.feed_engine(program, name, data)?;
        }
        m.run(program)?;
        Ok(program)
    }
}
