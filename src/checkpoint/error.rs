//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// A checkpoint that cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("{}: {source}{}", path.display(), way_out(source))]
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

/// What to do about an error of the file system, as far as its kind tells; to be put after what the system said.
pub(crate) fn way_out(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => {
            "; nothing that was saved before is touched: make room there, and go on with --resume"
        }
        ReadOnlyFilesystem | PermissionDenied => {
            "; make it accessible to this user, and writable, or name another folder with --out"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_locked_folder_have_a_way_out() {
        let told = |code: i32| {
            let source = std::io::Error::from_raw_os_error(code);
            let path = "a/b".into();
            CheckpointError::Io { path, source }.to_string()
        };
        // Linux: ENOSPC, EDQUOT, EROFS, EACCES, EIO.
        for code in [28, 122] {
            assert!(told(code).starts_with("a/b: ") && told(code).contains("make room"));
        }
        for code in [30, 13] {
            assert!(told(code).contains("--out"), "{}", told(code));
        }
        assert!(told(5).ends_with("(os error 5)"));
    }
}
