//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// A checkpoint that cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a checkpoint, truncated or damaged.
    #[error("{} is not a usable checkpoint: {detail}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// Written by a newer version of this program.
    #[error(
        "{} has checkpoint format {found}, and this version of vaebm reads up to {newest}: update vaebm",
        path.display()
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        newest: u32,
    },
    /// The tensors are not the ones the model has.
    #[error("{} does not fit the model: {detail}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Missing, surplus and misshapen tensors by name.
        detail: String,
    },
    /// What was asked to be saved cannot be saved.
    #[error("cannot save a checkpoint: {0}")]
    Unsaveable(String),
}

impl CheckpointError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
