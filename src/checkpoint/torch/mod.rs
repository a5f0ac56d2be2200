//! Reader of files that `torch.save` wrote: the zip form (PyTorch 1.6 and later) and the one before it.
//!
//! Such a file holds a pickle, which is a program for a small stack machine. Here it is read as **data**: [`pickle`]
//! knows an explicit list of opcodes and refuses every other; a class is a name and nothing is ever imported or called.
//! Dictionaries, tensors and parameters become what they are; every other class (`argparse.Namespace`, optimisers,
//! anything) becomes an [`Object`] with its name, arguments and state. Sizes and depths are bounded by what the file
//! really contains, so a small file cannot ask for much memory.

mod args;
mod document;
mod error;
mod legacy;
mod pickle;
mod storage;
mod value;
mod zip;

pub use args::{PublishedArgs, config_from_args};
pub use error::TorchError;
pub use value::{Data, Object, Tensor, Value};

use super::map::map_file;
use std::path::Path;

/// Reads a file that `torch.save` wrote.
///
/// # Errors
/// A file that cannot be read, is truncated or damaged, or holds what this reader refuses; never a panic.
pub fn read(path: &Path) -> Result<Value, TorchError> {
    let map = map_file(path).map_err(|source| TorchError::Io {
        path: path.into(),
        source,
    })?;
    read_bytes(&map).map_err(|detail| TorchError::Unreadable {
        path: path.into(),
        detail,
    })
}

/// Reads the contents of such a file; an error is a description.
fn read_bytes(bytes: &[u8]) -> Result<Value, String> {
    if bytes.starts_with(b"PK") {
        return zip::read(bytes);
    }
    if legacy::is_legacy(bytes) {
        return legacy::read(bytes);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Err("the tar form of PyTorch before 0.1.10 is not supported; save it again with a later one".into());
    }
    Err("neither a zip archive nor a pickle that torch.save writes".into())
}

#[cfg(test)]
mod tests;
