//! What the driver may refuse, each through the binary: one clear error, exit code 1, no panic, and what was written stays whole.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::judge::exec;
use crate::tiny;

/// One refusal.
pub struct Refusal {
    /// Its name, as checks are named.
    pub name: &'static str,
    /// What the stand-in refuses.
    fail: &'static [&'static str],
    /// The command, after `vaebm`.
    command: fn(&Path) -> Vec<OsString>,
    /// What the error says.
    says: &'static [&'static str],
}

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

/// A short stage 1 on the GPU in a folder.
fn train(folder: &Path) -> Vec<OsString> {
    let path = folder.join("tiny.toml");
    let mut config = tiny::config(&folder.join("run"));
    config.run.device = "cuda".into();
    (config.vae.num_channels_enc, config.vae.num_channels_dec) = (4, 4);
    config.train_vae.steps = Some(1);
    tiny::write_config(&path, &config);
    let mut command = words(&["train", "vae", "--progress", "none", "--config"]);
    command.push(path.into());
    command
}

fn doctor(_: &Path) -> Vec<OsString> {
    words(&["doctor"])
}

/// All refusals, and one success beside them.
pub fn all() -> Vec<Refusal> {
    vec![
        Refusal {
            name: "refusals/no-device",
            fail: &["no-device"],
            command: train,
            says: &["finds no GPU", "--device cpu"],
        },
        Refusal {
            name: "refusals/old-driver",
            fail: &["old-driver"],
            command: train,
            says: &["CUDA 11.4", "12.0", "update"],
        },
        Refusal {
            name: "refusals/ptx-rejected",
            fail: &["ptx-rejected"],
            command: train,
            says: &["refuses module", "ptxas"],
        },
        Refusal {
            name: "refusals/out-of-memory-at",
            fail: &["oom-at=3"],
            command: train,
            says: &["GPU memory", "free"],
        },
        Refusal {
            name: "refusals/out-of-memory-bytes",
            fail: &["oom-bytes=200000"],
            command: train,
            says: &["batch"],
        },
        Refusal {
            name: "refusals/launch-fails",
            fail: &["launch-fails=adamax_f32"],
            command: train,
            says: &["LAUNCH_OUT_OF_RESOURCES"],
        },
        Refusal {
            name: "refusals/async-error",
            fail: &["async-error=adamax_f32"],
            command: train,
            says: &["ILLEGAL_ADDRESS"],
        },
        Refusal {
            name: "refusals/none-doctor",
            fail: &[],
            command: doctor,
            says: &["H200", "9.0"],
        },
    ]
}

impl Refusal {
    /// Runs the binary and looks at how it ended.
    pub fn judge(&self) -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let told = folder.path().join("told");
        // The shell keeps what is said; words are its arguments, so nothing needs quoting.
        let shell = r#"out=$1; shift; exec "$@" >"$out" 2>&1"#;
        let mut command = words(&["sh", "-c", shell, "sh"]);
        command.push(told.clone().into());
        command.push(PathBuf::from(env!("CARGO_BIN_EXE_vaebm")).into());
        command.extend((self.command)(folder.path()));
        let options: Vec<&str> = self.fail.iter().flat_map(|f| ["--fail", f]).collect();
        let ran = exec(&options, &command)?;
        let told = std::fs::read_to_string(told).map_err(|e| e.to_string())?;
        let want = i64::from(!self.fail.is_empty());
        let says = self.says.iter().all(|s| told.contains(s));
        match (ran.code == want, says && !told.contains("panicked")) {
            (true, true) => Ok(()),
            _ => Err(format!("ended with code {} and said:\n{told}", ran.code)),
        }
    }
}
