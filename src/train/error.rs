//! What can stop a training run.

use crate::checkpoint::CheckpointError;
use crate::checkpoint::ring::RingError;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::device::DeviceError;
use crate::run::RunError;
use crate::tape::FitError;

/// Why training, sampling or evaluation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A program does not fit in memory.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// Images cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The run folder cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The replay buffer cannot be used.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The configuration asks for something impossible.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// Which.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A loss that is not finite.
    #[error(
        "step {step}: the loss is {loss}; nothing was saved after it: resume from the last checkpoint with a lower \
         learning rate or a higher weight of the norm terms"
    )]
    NotFinite {
        /// After which step.
        step: u64,
        /// The value.
        loss: f32,
    },
    /// Something the configuration and the data do not agree on.
    #[error("{0}")]
    Mismatch(String),
}
