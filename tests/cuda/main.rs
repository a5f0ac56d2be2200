//! The cuda device, without a GPU and with one.
//!
//! Started plainly this program is the judge: it starts itself again under `ptxsim exec`, whose stand-in for the driver runs the
//! committed PTX on the CPU with the checker on, and demands right numbers, no finding, no leak, and that the kernels that ran are
//! those that were planned. Started with `work` and the names of checks it runs those on whatever driver there is, which is
//! how a GPU is tested:
//!
//! ```text
//! cargo test --test cuda                         everything on the simulator
//! cargo test --test cuda -- conv2d               the checks whose name contains that
//! target/debug/deps/cuda-... work cases/f32      one check on the driver of this machine
//! target/debug/deps/cuda-... list                the names of all checks that need a driver
//! ```

mod binary;
mod cases;
mod dump;
mod judge;
mod programs;
#[path = "../tiny/mod.rs"]
mod tiny;

use std::collections::BTreeMap;

use vaebm::device::cuda::Cuda;
use vaebm::program::gpu::Precision;

/// What went wrong, in words.
type Outcome = Result<(), String>;

/// How often each kernel was submitted, as the plans have it.
#[derive(Default)]
struct Planned(BTreeMap<String, u64>);

impl Planned {
    /// Runs `body` on the first GPU and counts what it submits.
    fn on_gpu<R>(
        &mut self,
        precision: Precision,
        body: impl FnOnce(&mut Cuda) -> Result<R, String>,
    ) -> Result<R, String> {
        let mut device = Cuda::new(0, precision).map_err(|e| e.to_string())?;
        let result = body(&mut device);
        for (kernel, times) in device.launches() {
            *self.0.entry(kernel).or_default() += times;
        }
        result
    }
}

/// One check that needs a driver.
struct Check {
    name: String,
    run: Box<dyn Fn(&mut Planned) -> Outcome>,
}

impl Check {
    fn new(name: impl Into<String>, run: impl Fn(&mut Planned) -> Outcome + 'static) -> Self {
        Check {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

fn checks() -> Vec<Check> {
    let mut checks = cases::checks();
    checks.extend(programs::checks());
    checks
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let failed = match args.first().map(String::as_str) {
        Some("work") => work(&args[1..]),
        Some("list") => {
            checks().iter().for_each(|c| println!("{}", c.name));
            false
        }
        Some("dump") if args.len() == 2 => told(dump::dump(args[1].as_ref())),
        Some("compare") if args.len() == 3 => {
            told(dump::compare(args[1].as_ref(), args[2].as_ref()))
        }
        // What cargo hands to every test program, such as --nocapture, says nothing here.
        _ => judge::judge(args.iter().find(|a| !a.starts_with('-'))),
    };
    std::process::exit(i32::from(failed));
}

/// Prints what went wrong; whether anything did.
fn told(outcome: Outcome) -> bool {
    outcome.inspect_err(|error| println!("{error}")).is_err()
}

/// Runs checks by their exact names; whether any failed. With `PLANNED` in the environment, writes there how often each kernel was
/// submitted.
fn work(names: &[String]) -> bool {
    let mut failed = false;
    let mut planned = Planned::default();
    for check in checks().iter().filter(|c| names.contains(&c.name)) {
        match (check.run)(&mut planned) {
            Ok(()) => println!("{}: ok", check.name),
            Err(error) => {
                failed = true;
                println!("{}: FAILED\n{error}", check.name);
            }
        }
    }
    if let Some(path) = std::env::var_os(judge::PLANNED) {
        let json = serde_json::to_vec(&planned.0).expect("names and counts");
        failed |= std::fs::write(path, json).is_err();
    }
    failed
}
