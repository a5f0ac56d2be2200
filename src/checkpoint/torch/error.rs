//! What can be wrong with a PyTorch file.

use std::path::PathBuf;

/// A PyTorch file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TorchError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a PyTorch file, truncated, damaged, or with contents that are refused.
    #[error("{} cannot be read as a PyTorch file: {detail}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
}
