//! The one place where a file is mapped into memory.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::Path;

/// Maps a file for reading. An empty file cannot be mapped and is an error.
pub(super) fn map_file(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file is empty",
        ));
    }
    // SAFETY: the map is read-only and owned by the returned value, which outlives every slice taken from it. Its
    // bytes must not change meanwhile: this program never writes into a checkpoint in place, it only renames finished
    // files over old names, which leaves a mapped file untouched.
    unsafe { Mmap::map(&file) }
}
