//! What can stop a training run.

use crate::checkpoint::ring::RingError;
use crate::checkpoint::{CheckpointError, way_out};
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
    #[error("{path}: {source}{}", way_out(source))]
    Write {
        /// Which.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A loss that is not finite, with the guard turned off.
    #[error(
        "step {step}: the loss is {loss}, and the guard that would have gone back is turned off (guard.enabled); what was saved \
         before is intact: train on from there with a lower learning rate or a higher weight of the norm terms"
    )]
    NotFinite {
        /// After which step.
        step: u64,
        /// The value.
        loss: f32,
    },
    /// A run that diverged again and again.
    #[error(
        "the training diverges: at step {step} {complaint}, after {rollbacks} rollbacks. Try a lower learning rate, more \
         regularisation or smaller Langevin steps. {}",
        .best.as_ref().map_or_else(
            || "Nothing was saved before".to_owned(),
            |best| format!("The best checkpoint is {}", best.display())
        )
    )]
    GaveUp {
        /// The step.
        step: u64,
        /// What was wrong with it.
        complaint: String,
        /// Rollbacks made.
        rollbacks: u64,
        /// What can be used.
        best: Option<std::path::PathBuf>,
    },
    /// Samples with numbers that are not finite.
    #[error(
        "{images} of {of} images are not finite after {steps} Langevin steps of size {step_size}: use a smaller \
         --step-size; if they are not finite with --num-steps 0 either, the model has diverged in training"
    )]
    Diverged {
        /// How many.
        images: usize,
        /// Of how many of the batch.
        of: usize,
        /// Steps of each chain.
        steps: usize,
        /// Their size, eta.
        step_size: f64,
    },
    /// Traces that cannot be measured.
    #[error(
        "{name} of the chains cannot be measured: {source}; with step size {step_size} they may have left the density: use a smaller \
         --step-size"
    )]
    Trace {
        /// Of what.
        name: String,
        /// Why.
        source: crate::langevin::diagnostics::TraceError,
        /// Their step size, eta.
        step_size: f64,
    },
    /// Something the configuration and the data do not agree on.
    #[error("{0}")]
    Mismatch(String),
}
