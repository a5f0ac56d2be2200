//! Where tests find the material that lies beside the repository: parity cases, real images.

use std::path::{Path, PathBuf};

/// The folder or file `what` (for example `parity/A`) of the shared material: under `VAEBM_SHARED` if that is set, else
/// under `shared` beside the repository. Where it is missing this prints SKIP and returns nothing.
///
/// # Panics
/// If it is missing and the variable `CI` is set: there, nothing may be skipped.
pub fn require_shared(what: &str) -> Option<PathBuf> {
    let root = std::env::var_os("VAEBM_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let path = root.join(what);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing, and CI may not skip it",
        path.display()
    );
    eprintln!("SKIP: {} is missing", path.display());
    None
}
