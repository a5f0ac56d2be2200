//! The command: `kernelc [--check [--offline]] [DIR...]`.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use kernelc::{
    Error,
    build::{self, Compiler, Event},
};

/// The directories of kernels in this workspace.
const DIRECTORIES: [&str; 2] = ["kernels", "tools/ptxsim/tests/kernels"];

/// Compile CUDA C++ kernels to committed PTX, reproducibly.
///
/// Every DIR/*.cu becomes DIR/ptx/*.ptx, with the pinned NVRTC; each is assembled with the pinned ptxas for sm_80,
/// sm_90 and sm_100 (sm_90a for files that ask for compute_90a), and DIR/ptx/resources.txt keeps registers and shared
/// memory. Only files whose sources changed are made again.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Directories with .cu files [default: kernels and tools/ptxsim/tests/kernels of the workspace]
    dirs: Vec<PathBuf>,
    /// Write nothing; fail, naming the file, when the committed PTX or snapshot is not what the sources give
    #[arg(long)]
    check: bool,
    /// With --check: compare digests only, which needs no compiler
    #[arg(long, requires = "check")]
    offline: bool,
    /// Make every file again
    #[arg(long, conflicts_with = "check")]
    force: bool,
    /// Where the compiler is installed [default: target/kernelc of the workspace]
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kernelc: {error}");
            ExitCode::from(2)
        }
    }
}

/// `false` when a check found drift.
fn run(arguments: &Arguments) -> Result<bool, Error> {
    let root = workspace_root();
    let dirs = match arguments.dirs.is_empty() {
        true => DIRECTORIES.iter().map(|dir| root.join(dir)).collect(),
        false => arguments.dirs.clone(),
    };
    let venv = arguments
        .venv
        .clone()
        .unwrap_or_else(|| root.join("target/kernelc"));
    let mut compiler = Compiler::new(venv);
    let mut clean = true;
    let mut tell = |event: Event| match event {
        Event::Fresh(_) => {}
        Event::Compiled(path) => println!("compiled {}", shown(&path, &root)),
        Event::Snapshot(path) => println!("wrote    {}", shown(&path, &root)),
        Event::Removed(path) => println!("removed  {}", shown(&path, &root)),
        Event::Drift(path, why) => {
            clean = false;
            eprintln!("drift    {}: {why}", shown(&path, &root));
        }
    };
    for dir in &dirs {
        if !arguments.dirs.is_empty() && !dir.is_dir() {
            return Err(Error::io(dir, std::io::ErrorKind::NotFound.into()));
        }
        if arguments.check {
            build::check(
                dir,
                (!arguments.offline).then_some(&mut compiler),
                &mut tell,
            )?;
        } else {
            build::update(dir, &mut compiler, arguments.force, &mut tell)?;
        }
    }
    if !clean {
        eprintln!("kernelc: run `cargo run -p kernelc` and commit what it changes");
    }
    Ok(clean)
}

/// The nearest directory above the current one that has `tools/kernelc`; the current one when there is none.
fn workspace_root() -> PathBuf {
    let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let root = here
        .ancestors()
        .find(|dir| dir.join("tools/kernelc/Cargo.toml").is_file());
    root.unwrap_or(&here).to_owned()
}

fn shown(path: &Path, root: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}
