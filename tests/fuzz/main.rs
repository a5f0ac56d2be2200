//! Every reader of something from outside, fed with damaged input: it must give a value or one clear error. It may not panic, hang, or
//! take memory that the input does not account for.
//!
//! Each test replays a target's valid seeds and its committed corpus (`corpus/<target>`: what once went wrong, made small), then reads
//! edits of them for two seconds. Longer runs, one target at a time:
//!
//! ```text
//! VAEBM_FUZZ_SECONDS=600 VAEBM_FUZZ_SEED=1 cargo test --test fuzz -- --exact torch::torch_files --nocapture
//! ```
//!
//! Where an input can be damaged at several depths (a file, what is packed in it, one of several files), its first byte says which.

mod checkpoints;
mod configuration;
mod harness;
mod images;
mod memory;
mod mutate;
mod parity;
mod torch;

use std::path::{Path, PathBuf};

/// Bytes that any reader may hold, whatever its input: buffers of libraries, messages, tables.
const BASE: usize = 8 << 20;

/// Writes a file of a round.
fn place(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file of the scratch folder");
    path
}

/// Asks of an error about files that it says which file or folder.
fn refused(error: &dyn std::fmt::Display, folder: &Path) -> Result<bool, String> {
    let told = error.to_string();
    if told.contains(&folder.display().to_string()) {
        Ok(false)
    } else {
        Err(format!("its error names no file: {told:?}"))
    }
}

/// The first byte, and the rest.
fn form(input: &[u8]) -> (u8, &[u8]) {
    input
        .split_first()
        .map_or((0, input), |(form, rest)| (*form, rest))
}

/// A seed: the form, then the contents.
fn seed(form: u8, contents: &[u8]) -> Vec<u8> {
    [&[form], contents].concat()
}
