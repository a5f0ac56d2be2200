//! What the whole-crate tests share: finding the parity files, reading them with their tolerances, and running a recorded step on
//! the native device and on the reference in double precision.

#![allow(
    dead_code,
    reason = "every test binary compiles this module and uses a part of it"
)]

pub mod layout;
pub mod parity;
pub mod step;

use std::path::{Path, PathBuf};

/// A folder or file below the folder `shared` that stands beside the checkout (or beside any folder above it).
///
/// `None`, said aloud, where it is missing; an error where `CI` is set, so that no pipeline passes without it.
pub fn shared(path: &str) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = (here.ancestors())
        .map(|folder| folder.join("shared").join(path))
        .find(|candidate| candidate.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "shared/{path} is missing, and CI is set: nothing may be skipped"
        );
        eprintln!("SKIPPED: there is no shared/{path} beside this checkout or above it");
    }
    found
}
