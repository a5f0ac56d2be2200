//! Where tests find the material that lies beside the checkout: parity cases and real images.
//!
//! It is optional: without it those tests say loudly that they skip, unless the variable `CI` is set, where they fail.

use std::path::PathBuf;

/// The folder named by `VAEBM_SHARED`, else `shared` beside the checkout; `None` where there is none.
pub fn shared_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("VAEBM_SHARED") {
        return Some(PathBuf::from(dir)).filter(|dir| dir.is_dir());
    }
    // Cargo sets the variable for tests, benches and `cargo run`. A workspace member lies two folders deeper than the
    // root package, hence three candidates.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| std::env::current_dir().ok(), |dir| Some(dir.into()))?;
    package
        .ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join("shared"))
        .find(|dir| dir.is_dir())
}

/// The path of `what` (such as `data/mnist`) inside the shared folder.
///
/// `None`, after a loud line on standard error, where it is missing: the test should return.
///
/// # Panics
///
/// Where it is missing and the variable `CI` is set: there nothing may be skipped unseen.
pub fn require_shared(what: &str) -> Option<PathBuf> {
    let found = shared_dir()
        .map(|dir| dir.join(what))
        .filter(|path| path.exists());
    if found.is_none() {
        let reason = format!(
            "`shared/{what}` is missing beside the checkout (VAEBM_SHARED names another folder)"
        );
        assert!(std::env::var_os("CI").is_none(), "{reason}, and CI is set");
        eprintln!("SKIP: {reason}");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_skipped_or_fails_in_ci() {
        let result = std::panic::catch_unwind(|| require_shared("no such thing"));
        match result {
            Ok(found) => assert!(found.is_none() && std::env::var_os("CI").is_none()),
            Err(_) => assert!(std::env::var_os("CI").is_some()),
        }
    }

    #[test]
    fn what_is_found_exists() {
        if let Some(dir) = shared_dir() {
            assert!(dir.is_dir());
            assert_eq!(require_shared("."), Some(dir.join(".")));
        }
    }
}
