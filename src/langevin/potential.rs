//! What a sampler has to know of a density: its energy `U`, of which it follows `exp(-U)`, recorded on a tape.

use crate::ops::Var;
use crate::tape::Tape;
use crate::tensor::Shape;

/// A density that chains can follow. A chain is an entry of axis 0 of every state.
pub trait Potential: Sized {
    /// How many chains.
    fn chains(&self) -> usize;
    /// The same density for another number of chains.
    fn resized(&self, chains: usize) -> Self;
    /// Names and shapes of the chains' states.
    fn states(&self) -> Vec<(String, Shape)>;
    /// The program that starts all chains.
    fn start(&self) -> Tape;
    /// Records `U` at a place, given as tensors of the states' shapes.
    fn record(&self, tape: &Tape, at: &[Var]) -> Recorded;
    /// Brings states that a step moved back to where the density is defined; most densities are defined everywhere.
    fn confine(&self, tape: &Tape, states: &[Var]) {
        let _ = (tape, states);
    }
    /// Which elements of a chain's first state are worth a trace of their own.
    fn coordinates(&self) -> Vec<usize>;
}

/// An energy on a tape.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// `U`, `[n]`.
    pub total: Var,
    /// Summands of `U`, each `[n]`: all of it but what `standard_normal` says.
    pub summands: Vec<Var>,
    /// Whether `|x|^2 / 2` is a part of `U` that the summands do not hold.
    pub standard_normal: bool,
    /// Further numbers of the place with their names, each `[n]`.
    pub told: Vec<(&'static str, Var)>,
}
