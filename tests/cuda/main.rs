//! The cuda device, without a GPU and with one.
//!
//! Started plainly this program is the judge: it starts itself again under `ptxsim exec`, whose stand-in for the driver runs the
//! committed PTX on the CPU with the checker on, and demands right numbers and no finding. Started with `work` and the names of
//! checks it runs those on whatever driver there is, which is how a GPU is tested:
//!
//! ```text
//! cargo test --test cuda                         everything on the simulator
//! cargo test --test cuda -- conv2d               the checks whose name contains that
//! target/debug/deps/cuda-... work cases/f32      one check on the driver of this machine
//! ```

mod cases;
mod judge;

/// What went wrong, in words.
type Outcome = Result<(), String>;

/// One check that needs a driver.
struct Check {
    name: String,
    run: Box<dyn Fn() -> Outcome>,
}

fn checks() -> Vec<Check> {
    cases::checks()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let failed = match args.first().map(String::as_str) {
        Some("work") => work(&args[1..]),
        // What cargo hands to every test program, such as --nocapture, says nothing here.
        _ => judge::judge(args.iter().find(|a| !a.starts_with('-'))),
    };
    std::process::exit(i32::from(failed));
}

/// Runs checks by their exact names; whether any failed.
fn work(names: &[String]) -> bool {
    let mut failed = false;
    for check in checks().iter().filter(|c| names.contains(&c.name)) {
        match (check.run)() {
            Ok(()) => println!("{}: ok", check.name),
            Err(error) => {
                failed = true;
                println!("{}: FAILED\n{error}", check.name);
            }
        }
    }
    failed
}
