//! Published PyTorch checkpoints in and out: import brings weights and optimiser state over, so that sampling and training go on here;
//! export writes our weights under the official names and layouts.

mod export;
mod import;
mod tensors;

pub use export::export;
pub use import::{Imported, import};

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::torch::TorchError;
use crate::config::ConfigError;
use crate::device::DeviceError;
use crate::run::RunError;
use crate::train::TrainError;

/// Why a published checkpoint cannot be brought over, or ours not be written for the official code.
#[derive(Debug, thiserror::Error)]
pub enum OfficialError {
    /// The file is not a readable PyTorch file.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// It is one, but not a checkpoint of either stage.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Its settings do not make a configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The run folder cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The states cannot be assembled.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The states cannot be assembled.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
