//! The binary on the stand-in: what works, and what the driver may refuse, which ends in one clear error, exit code 1 and no panic.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use vaebm::shared::require_shared;

use crate::judge::exec;
use crate::tiny;

/// Makes a command in a folder of its own.
type Command = Box<dyn Fn(&Path) -> Vec<OsString>>;

/// One run of the binary.
pub struct Run {
    /// Its name, as checks are named.
    pub name: &'static str,
    /// What the stand-in refuses; nothing, and the run must succeed.
    fail: &'static [&'static str],
    /// The command, after `vaebm`.
    command: Command,
    /// What a shell does with the whole command, `"$@"`.
    script: &'static str,
    /// What it says on either.
    says: &'static [&'static str],
}

/// Runs the command and nothing else.
const ALONE: &str = r#"exec "$@""#;

/// Tunes, trains with the table, damages it, and shows that it is named until it is reset. The command is `vaebm tune --config FILE`, with
/// flags; the cache is a folder of the test's own.
const TUNE: &str = r#"
vaebm=$1 config=$4
"$@" || exit 7
train() { "$vaebm" train vae --progress none --config "$config" --out "$VAEBM_CACHE/run-$1"; }
train tuned || exit 8
cat "$VAEBM_CACHE/run-tuned/machine.json"
table=$(ls "$VAEBM_CACHE"/tune/*.toml) || exit 9
echo broken >> "$table"
train broken && exit 10
"$@" && exit 11
"$vaebm" tune --reset --device cuda || exit 12
"$vaebm" tune --reset --device cuda || exit 13
"#;

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

/// The least model on the GPU as a file in a folder.
fn model(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.toml");
    let mut config = tiny::config(&folder.join("run"));
    config.run.device = "cuda".into();
    (config.vae.num_channels_enc, config.vae.num_channels_dec) = (4, 4);
    config.vae.num_groups_per_scale = 1;
    config.ebm.n_channel = 4;
    config.train_vae.steps = Some(1);
    tiny::write_config(&path, &config);
    path
}

/// A short stage 1 on the GPU in a folder.
fn train(folder: &Path) -> Vec<OsString> {
    let mut command = words(&["train", "vae", "--progress", "none", "--config"]);
    command.push(model(folder).into());
    command
}

/// Chains in bf16 beside chains in f32, with channels in eights, so that activations are stored as bf16.
fn faithful(folder: &Path) -> Vec<OsString> {
    let path = folder.join("tiny.toml");
    let mut config = tiny::config(&folder.join("run"));
    config.run.device = "cuda".into();
    (config.vae.num_groups_per_scale, config.sample.step_size) = (1, 1e-3);
    tiny::write_config(&path, &config);
    let mut command = words(&["faithful", "--precision", "bf16", "--chains", "3"]);
    command.extend(words(&["--num-steps", "3", "--config"]));
    command.push(path.into());
    command
}

fn with_model(command: &'static [&'static str], flags: &'static [&'static str]) -> Command {
    Box::new(move |folder| {
        let mut all = words(command);
        all.push(model(folder).into());
        all.extend(words(flags));
        all
    })
}

fn doctor(_: &Path) -> Vec<OsString> {
    words(&["doctor"])
}

/// The stored numbers of the official implementation that are cheap enough to simulate.
const PARITY: [(&str, &str); 3] = [
    ("binary/parity-optimiser", "unit/adamax"),
    ("binary/parity-distributions", "unit/distributions"),
    ("binary/parity-energy", "A/ebm_forward"),
];

/// All runs.
pub fn all() -> Vec<Run> {
    let mut runs = refusals();
    let Some(dir) = require_shared("parity") else {
        return runs;
    };
    for (name, only) in PARITY {
        let mut command = words(&["parity", "--device", "cuda", "--only", only]);
        command.push(dir.clone().into());
        runs.push(Run {
            name,
            fail: &[],
            command: Box::new(move |_| command.clone()),
            script: ALONE,
            says: &["pass"],
        });
    }
    runs
}

fn refusals() -> Vec<Run> {
    vec![
        Run {
            name: "refusals/no-device",
            fail: &["no-device"],
            command: Box::new(train),
            script: ALONE,
            says: &["finds no GPU", "--device cpu"],
        },
        Run {
            name: "refusals/old-driver",
            fail: &["old-driver"],
            command: Box::new(train),
            script: ALONE,
            says: &["CUDA 11.4", "12.0", "update"],
        },
        Run {
            name: "refusals/ptx-rejected",
            fail: &["ptx-rejected"],
            command: Box::new(train),
            script: ALONE,
            says: &["refuses module", "ptxas"],
        },
        Run {
            name: "refusals/out-of-memory-at",
            fail: &["oom-at=3"],
            command: Box::new(train),
            script: ALONE,
            says: &["GPU memory", "free"],
        },
        Run {
            name: "refusals/out-of-memory-bytes",
            fail: &["oom-bytes=200000"],
            command: Box::new(train),
            script: ALONE,
            says: &["batch"],
        },
        Run {
            name: "refusals/launch-fails",
            fail: &["launch-fails=adamax_f32"],
            command: Box::new(train),
            script: ALONE,
            says: &["LAUNCH_OUT_OF_RESOURCES"],
        },
        Run {
            name: "refusals/async-error",
            fail: &["async-error=adamax_f32"],
            command: Box::new(train),
            script: ALONE,
            says: &["ILLEGAL_ADDRESS"],
        },
        Run {
            name: "binary/faithful",
            fail: &[],
            command: Box::new(faithful),
            script: ALONE,
            says: &["3 chains in bf16", "against f32", "bounds hold"],
        },
        Run {
            name: "binary/doctor",
            fail: &[],
            command: Box::new(doctor),
            script: ALONE,
            says: &["H200", "9.0"],
        },
        Run {
            name: "binary/bench",
            fail: &[],
            command: with_model(
                &["bench", "--config"],
                &[
                    "--batch",
                    "1",
                    "--steps",
                    "2",
                    "--what",
                    "langevin,energy,sample",
                    "--precision",
                    "bf16",
                    "--seconds",
                    "0.001",
                ],
            ),
            script: ALONE,
            says: &[
                "H200",
                "CUDA 12",
                "MHz nominal",
                "GFLOP/s of bf16 products",
                "decoder backward",
                "energy backward",
                "until the first images",
                "used MiB",
            ],
        },
        Run {
            name: "binary/tune",
            fail: &[],
            command: with_model(
                &["tune", "--config"],
                &["--batch", "1", "--what", "energy", "--rounds", "1"],
            ),
            script: TUNE,
            says: &[
                "places measured on",
                "conv2d_fprop",
                "conv2d_wgrad",
                "kernels chosen by",
                " choices)\"",
                "is no table",
                "vaebm tune --reset",
                "deleted",
                "there was no",
            ],
        },
    ]
}

impl Run {
    /// Runs the binary and looks at how it ended.
    pub fn judge(&self) -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let told = folder.path().join("told");
        // The shell keeps what is said; words are its arguments, so nothing needs quoting. The user's cache is left alone.
        let shell = format!(
            "out=$1; shift; exec >\"$out\" 2>&1; export VAEBM_CACHE=\"$out.cache\"\n{}",
            self.script
        );
        let mut command = words(&["sh", "-c", &shell, "sh"]);
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
