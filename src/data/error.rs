//! What can be wrong with data, and the way out.

use std::io;
use std::path::{Path, PathBuf};

/// Every error names the file or the setting it is about.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused to read a file or folder.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system refused to write a file.
    #[error("cannot write {}: {source}; check that the folder exists, is writable and has room", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder lacks a file that the set needs.
    #[error("{} has none of {expected}; name the folder that holds the {set} files", dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// The set that was asked for.
        set: &'static str,
        /// The file names that would do.
        expected: String,
    },
    /// A folder of pictures without pictures.
    #[error("{} holds no .png file; name the folder that holds the pictures themselves (other formats must be converted)", dir.display())]
    EmptyFolder {
        /// The folder.
        dir: PathBuf,
    },
    /// The first bytes are not those of the format.
    #[error("{} starts with {found:#010x} where {format} starts with {expected:#010x}: {hint}", path.display())]
    WrongMagic {
        /// The file.
        path: PathBuf,
        /// The format that was expected.
        format: &'static str,
        /// The big-endian magic number of the format.
        expected: u32,
        /// What was found.
        found: u32,
        /// What the file may be instead, or what to do.
        hint: &'static str,
    },
    /// The file ends early; for a compressed file, the compressed data do.
    #[error("{} is truncated: {found} of {expected} bytes of {what}; fetch or copy it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: &'static str,
        /// The bytes that the format or the file's header announces.
        expected: u64,
        /// The bytes that were there, decompressed.
        found: u64,
    },
    /// The contents cannot be decoded.
    #[error("{} is damaged: {reason}; fetch or copy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// The size is not what the format or the set asks for.
    #[error("{} has the wrong size: {reason}", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Found and expected size.
        reason: String,
    },
    /// The image file and the label file do not belong together.
    #[error("{} has {images} images but {} has {labels} labels; the two files must come from the same set", image_path.display(), label_path.display())]
    CountMismatch {
        /// The image file.
        image_path: PathBuf,
        /// Its items.
        images: usize,
        /// The label file.
        label_path: PathBuf,
        /// Its items.
        labels: usize,
    },
    /// A label outside the classes of the set.
    #[error("{} gives item {item} the label {label}, but the set has {classes} classes; it is damaged or of another set", path.display())]
    WrongLabel {
        /// The file.
        path: PathBuf,
        /// The item.
        item: usize,
        /// Its label.
        label: u32,
        /// The number of classes.
        classes: u32,
    },
    /// A setting that cannot be met.
    #[error("{0}")]
    Setting(String),
}

impl DataError {
    /// For `map_err` after reading.
    pub(crate) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> DataError {
        move |source| DataError::Unreadable {
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err` after writing.
    pub(crate) fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> DataError {
        move |source| DataError::Unwritable {
            path: path.to_owned(),
            source,
        }
    }
}
