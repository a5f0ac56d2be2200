//! `ptxsim exec`: runs any program that loads libcuda dynamically on the stand-in.
//!
//! The command puts a directory with `libcuda.so` and `libcuda.so.1` (both the stand-in) at the head of
//! `LD_LIBRARY_PATH`, passes its settings in the environment, and runs the program. Every process that loads the stand-in
//! writes its report when it ends; they are printed, and joined in one JSON file on request.

pub mod fail;
pub mod report;
pub mod settings;
pub mod usage;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    time::SystemTime,
};

use serde_json::{Value, json};

use crate::Chip;
use fail::Fail;
use settings::{Settings, unknown_chip};

/// File name of the stand-in as cargo builds it.
const STAND_IN: &str = "libptxsim_cuda.so";
/// Exit code when the command cannot be run.
const CANNOT_RUN: u8 = 2;

/// Run a program on a simulated GPU
///
/// The exit code is that of COMMAND, except: 1 when COMMAND succeeded but there were findings, 2 when it could not be
/// started, 128 + N when signal N ended it. Leaked device memory is printed and does not change the exit code.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// GPU to pose as: H200, A100 or RTX4090
    #[arg(long, default_value = "H200", value_parser = chip)]
    chip: Chip,
    /// Run blocks and warps in an order shuffled with this seed
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Do the work of streams as late as the program's waits allow, so that a missing wait shows
    #[arg(long)]
    late: bool,
    /// Write findings, leaks and counters of all processes to this file
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Refuse something: no-device, old-driver, ptx-rejected, oom-at=N, oom-bytes=N, launch-fails=KERNEL or =KERNEL:N,
    /// async-error=KERNEL or =KERNEL:N; can be given several times
    #[arg(long, value_name = "WHAT")]
    fail: Vec<Fail>,
    /// Stop a launch when a warp has executed this many instructions; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = settings::INSTRUCTION_LIMIT)]
    instruction_limit: u64,
    /// Print findings and leaks only, not what each kernel cost
    #[arg(long, short)]
    quiet: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

fn chip(name: &str) -> Result<Chip, String> {
    Chip::named(name).ok_or_else(|| unknown_chip(name))
}

/// Why the command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The stand-in is not beside the executable.
    #[error(
        "no {STAND_IN} in {}: build it with `cargo build -p ptxsim-libcuda` (with the same --release), or name it in \
         PTXSIM_LIBCUDA",
        .searched.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoStandIn {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The program could not be started.
    #[error("cannot run {command}: {source}")]
    Start {
        /// The program.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing to run.
    #[error("no command after `--`")]
    NoCommand,
    /// A file could not be written or read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs the command; prints the reports to standard error.
pub fn run(arguments: &Arguments) -> ExitCode {
    match execute(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ptxsim exec: {error}");
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn execute(arguments: &Arguments) -> Result<u8, ExecError> {
    let stand_in = find_stand_in()?;
    let scratch = Scratch::new()?;
    for name in ["libcuda.so", "libcuda.so.1", "libnvToolsExt.so"] {
        let link = scratch.0.join(name);
        std::os::unix::fs::symlink(&stand_in, &link)
            .map_err(|source| ExecError::File { path: link, source })?;
    }
    let settings = Settings {
        chip: arguments.chip.clone(),
        shuffle: arguments.shuffle,
        late: arguments.late,
        fail: arguments.fail.clone(),
        instruction_limit: arguments.instruction_limit,
        report_dir: Some(scratch.0.clone()),
    };
    let mut library_path = scratch.0.clone().into_os_string();
    if let Some(rest) = env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty()) {
        library_path.push(":");
        library_path.push(rest);
    }
    let (program, rest) = arguments
        .command
        .split_first()
        .ok_or(ExecError::NoCommand)?;
    let mut command = Command::new(program);
    command.args(rest).env("LD_LIBRARY_PATH", library_path);
    for (name, value) in settings.to_environment() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let status = command.status().map_err(|source| ExecError::Start {
        command: program.to_string_lossy().into_owned(),
        source,
    })?;
    let processes = collect(&scratch.0, arguments.quiet)?;
    let findings = processes
        .iter()
        .any(|process| !is_empty(&process["findings"]));
    let code = exit_code(status, findings);
    if let Some(path) = &arguments.report {
        let command: Vec<_> = arguments
            .command
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        let whole = json!({ "command": command, "exit_code": code, "processes": processes });
        let text = format!("{whole:#}\n");
        fs::write(path, text).map_err(|source| ExecError::File {
            path: path.clone(),
            source,
        })?;
    }
    Ok(code)
}

/// The code `ptxsim exec` ends with.
fn exit_code(status: ExitStatus, findings: bool) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(0), _) => u8::from(findings),
        (Some(code), _) => code as u8,
        (None, signal) => {
            let signal = signal.unwrap_or(0);
            eprintln!(
                "ptxsim exec: signal {signal} ended the program; what follows the last finding was not reported"
            );
            128_u8.saturating_add(signal as u8)
        }
    }
}

/// Prints every process's report and returns them as JSON, in order of process number.
fn collect(dir: &Path, quiet: bool) -> Result<Vec<Value>, ExecError> {
    let file = |path: &Path, source| ExecError::File {
        path: path.to_owned(),
        source,
    };
    let mut reports = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| file(dir, e))? {
        let path = entry.map_err(|e| file(dir, e))?.path();
        let process = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse::<u32>().ok());
        if let (Some(process), Some("json")) =
            (process, path.extension().and_then(|ext| ext.to_str()))
        {
            reports.push((process, path));
        }
    }
    reports.sort();
    let mut values = Vec::new();
    for (process, path) in reports {
        let bytes = fs::read(&path).map_err(|e| file(&path, e))?;
        let value = serde_json::from_slice(&bytes).map_err(|e| file(&path, e.into()))?;
        let text_path = path.with_extension("txt");
        let text = fs::read_to_string(&text_path).map_err(|e| file(&text_path, e))?;
        let shown = |line: &&str| {
            !quiet
                || ["FINDING", "leak", "note"]
                    .iter()
                    .any(|head| line.starts_with(head))
        };
        for line in text.lines().filter(shown) {
            eprintln!("ptxsim[{process}]: {line}");
        }
        values.push(value);
    }
    if values.is_empty() {
        eprintln!("ptxsim exec: no process initialised the CUDA driver");
    }
    Ok(values)
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

/// The stand-in's path: named in `PTXSIM_LIBCUDA`, or the newest of those beside the executable, in cargo's `deps` and
/// in `../lib`.
fn find_stand_in() -> Result<PathBuf, ExecError> {
    if let Some(path) = env::var_os("PTXSIM_LIBCUDA") {
        let path = PathBuf::from(path);
        return match path.canonicalize() {
            Ok(path) => Ok(path),
            Err(source) => Err(ExecError::File { path, source }),
        };
    }
    let own = Path::new("/proc/self/exe");
    let own = env::current_exe().map_err(|source| ExecError::File {
        path: own.to_owned(),
        source,
    })?;
    let dir = own.parent().unwrap_or(Path::new("/"));
    let searched = vec![dir.to_owned(), dir.join("deps"), dir.join("../lib")];
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
    let newest = searched
        .iter()
        .map(|dir| dir.join(STAND_IN))
        .filter_map(|path| modified(&path).map(|time: SystemTime| (time, path)))
        .max_by_key(|(time, _)| *time);
    newest
        .map(|(_, path)| path)
        .ok_or(ExecError::NoStandIn { searched })
}

/// A directory of our own, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, ExecError> {
        let nanos = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.subsec_nanos());
        let path = env::temp_dir().join(format!("ptxsim-exec-{}-{nanos}", std::process::id()));
        fs::create_dir(&path).map_err(|source| ExecError::File {
            path: path.clone(),
            source,
        })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing to tell: what is left lies in the system's directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn findings_change_the_exit_code_of_a_success_only() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(exit_code(exited(0), false), 0);
        assert_eq!(exit_code(exited(0), true), 1);
        assert_eq!(exit_code(exited(3), true), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9), true), 137);
    }
}
