//! Tells the binary which commit it is built from, for the reports of `vaebm bench`.
//!
//! Of release builds alone: a debug build would be made anew at every commit, and nobody measures one. A build without git, or outside
//! of a checkout, is of commit `unknown`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=VAEBM_COMMIT");
    let given = std::env::var("VAEBM_COMMIT").ok();
    let released = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match given {
        Some(commit) => commit,
        None if released => commit().unwrap_or_else(|| "unknown".into()),
        None => {
            println!("cargo:rerun-if-changed=build.rs");
            "unknown".into()
        }
    };
    println!("cargo:rustc-env=VAEBM_COMMIT={commit}");
}

/// The checkout's commit, with `+changes` where what is compiled differs from it.
fn commit() -> Option<String> {
    const SOURCES: [&str; 5] = ["src", "kernels", "build.rs", "Cargo.toml", "Cargo.lock"];
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    // Moves with every commit, on whatever branch and in whatever kind of checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    let head = git(&["rev-parse", "HEAD"])?;
    let differs = [&["status", "--porcelain", "--"][..], &SOURCES].concat();
    match git(&differs)?.is_empty() {
        true => Some(head),
        false => Some(format!("{head}+changes")),
    }
}

/// What git answers; `None` where there is no git or it refuses.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
