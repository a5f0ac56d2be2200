//! Training: the programs and loops of both stages.

mod architecture;
pub mod ebm;
pub mod ebm_programs;
mod error;
pub(crate) mod guard;
pub mod images;
mod readjust;
pub mod schedule;
mod score;
pub(crate) mod states;
pub mod vae;
pub mod vae_programs;

pub use error::TrainError;
pub use readjust::{Readjustment, readjust, restore_decoder};
pub use states::{StateList, restore};

/// How a training loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It reached its last step.
    Done,
    /// It was asked to stop and has saved.
    Stopped,
}
