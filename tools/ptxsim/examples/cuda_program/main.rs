//! A program on cudarc that uses the driver the way an engine does. It passes on a GPU and, unchanged, under
//! `ptxsim exec`:
//!
//! ```text
//! cargo run --example cuda_program                                  on a GPU; with the name of a step, that step
//! ptxsim exec -- target/debug/examples/cuda_program                 on the stand-in
//! ptxsim exec --fail no-device -- .../cuda_program no-device        expecting a refusal
//! ptxsim exec -- .../cuda_program tail_block_bug                    launching a planted bug: findings
//! ```
//!
//! Exit code 0 when everything was as expected, 3 when not.

mod capture;
mod errors;
mod kernels;
mod memory;
mod refusals;

use std::{process::ExitCode, sync::Arc};

use cudarc::driver::{CudaContext, CudaModule, DriverError};
use cudarc::nvrtc::Ptx;

/// What did not happen as expected.
pub type Failure = Box<dyn std::error::Error>;
/// A step of the program.
pub type Outcome = Result<(), Failure>;
type Step = fn(&Arc<CudaContext>) -> Outcome;

/// Fails with a message unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+).into());
        }
    };
}

/// The committed PTX of a test kernel file; embedded, so that the program can be carried to a GPU alone.
pub fn module(context: &Arc<CudaContext>, name: &str) -> Result<Arc<CudaModule>, DriverError> {
    context.load_module(Ptx::from_src(kernels::ptx(name)))
}

fn main() -> ExitCode {
    let scenario = std::env::args().nth(1).unwrap_or_else(|| "all".into());
    // SAFETY: looks whether a library of that name can be opened.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        eprintln!("no CUDA driver (libcuda) is installed");
        return ExitCode::from(3);
    }
    match run(&scenario) {
        Ok(()) => {
            println!("{scenario}: passed");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{scenario}: {failure}");
            ExitCode::from(3)
        }
    }
}

/// What works on any GPU, in the order it is run.
const STEPS: [(&str, Step); 16] = [
    ("device", memory::device),
    ("copies", memory::copies),
    ("pinned-memory", memory::pinned),
    ("memory-pools", memory::pools),
    ("launches", kernels::launches),
    ("raw-launches", kernels::raw_launches),
    ("attributes", kernels::attributes),
    ("clusters", kernels::clusters),
    ("variables", kernels::variables),
    ("events", kernels::events),
    ("threads", kernels::threads),
    ("capture", capture::replay),
    ("fork-and-join", capture::fork_and_join),
    ("capture-rules", capture::rules),
    ("errors", errors::errors),
    ("jit-log", errors::jit_log),
];

fn run(scenario: &str) -> Outcome {
    if let Some((_, step)) = STEPS.iter().find(|(name, _)| *name == scenario) {
        return step(&CudaContext::new(0)?);
    }
    match scenario {
        "all" => {
            let context = CudaContext::new(0)?;
            for (name, step) in STEPS {
                step(&context).map_err(|failure| format!("{name}: {failure}"))?;
                println!("{name}: ok");
            }
            context.synchronize()?;
            Ok(())
        }
        "leak" => {
            let context = CudaContext::new(0)?;
            std::mem::forget(context.default_stream().alloc_zeros::<u8>(1234)?);
            Ok(())
        }
        "missing-wait" => memory::missing_wait(),
        "undeclared-clusters" => refusals::clusters(),
        "no-device" => refusals::no_device(),
        "old-driver" => refusals::old_driver(),
        "ptx-rejected" => refusals::ptx_rejected(),
        "oom-at" => refusals::out_of_memory_at(),
        "oom-bytes" => refusals::out_of_memory_bytes(),
        "launch-fails" => refusals::launch_fails(),
        "async-error" => refusals::async_error(),
        "endless" => refusals::endless(),
        bug => kernels::planted(bug),
    }
}
