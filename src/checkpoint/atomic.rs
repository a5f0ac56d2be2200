//! Replacing a file so that a crash leaves the old one or the new one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Start of every temporary name; what carries it after a crash is unfinished and may be removed.
pub(crate) const TEMPORARY: &str = ".unfinished-";

/// Lets `write` fill a temporary file beside `path`, syncs it, gives it its name, and syncs the folder.
pub(super) fn replace_with<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} names no file", path.display()),
        )
    })?;
    let mut temporary_name = OsString::from(TEMPORARY);
    temporary_name.push(name);
    let temporary = path.with_file_name(temporary_name);
    let written = write(&temporary).and_then(|()| {
        // Durable before it gets its name: a rename may reach the disk before the bytes do.
        File::options().write(true).open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(())
    });
    if written.is_err() {
        // The first error is the one to tell; a leftover is removed at the next start in any case.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(path)?;
    Ok(())
}

/// Replaces the contents of a small file at once.
///
/// # Errors
/// Whatever the file system reports; the file is then as it was.
pub fn replace_file(path: &Path, contents: &[u8]) -> io::Result<()> {
    replace_with(path, |temporary| {
        File::create(temporary)?.write_all(contents)
    })
}

/// Makes a rename or removal in the folder of `path` durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Only Unix lets a folder be opened and synced; elsewhere the rename itself has to do.
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

/// Removes what a crash left unfinished in a folder, of the files whose names start like that, and tells what it was.
pub(crate) fn remove_unfinished(folder: &Path, start: &str) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let start = format!("{TEMPORARY}{start}");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&start) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
            removed.push(entry.path());
        }
    }
    Ok(removed)
}
