//! Runs the checks under the simulator and judges numbers, findings and leaks.

use clap::Parser;
use serde_json::Value;

use crate::checks;

/// Seeds of the schedules under which everything runs: warps and blocks in another order each time.
const SHUFFLES: [&str; 2] = ["1", "2"];

#[derive(Parser)]
struct Exec {
    #[command(flatten)]
    arguments: ptxsim::exec::Arguments,
}

/// Judges all checks whose name contains `part`; whether any failed.
pub fn judge(part: Option<&String>) -> bool {
    let names: Vec<String> = (checks().into_iter().map(|c| c.name))
        .filter(|name| part.is_none_or(|p| name.contains(p.as_str())))
        .collect();
    let mut failed = false;
    for shuffle in SHUFFLES {
        for name in &names {
            if let Err(error) = under_simulator(name, shuffle) {
                failed = true;
                println!("{name}, schedule {shuffle}: {error}");
            } else {
                println!("{name}, schedule {shuffle}: ok");
            }
        }
    }
    if names.is_empty() {
        println!("no check has such a name");
    }
    failed || names.is_empty()
}

fn under_simulator(name: &str, shuffle: &str) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    let report = tempfile::NamedTempFile::new().map_err(text)?;
    let own = std::env::current_exe().map_err(text)?;
    let words = ["exec", "--quiet", "--shuffle", shuffle, "--report"];
    let mut words: Vec<&std::ffi::OsStr> = words.iter().map(AsRef::as_ref).collect();
    words.extend([report.path().as_os_str(), "--".as_ref(), own.as_os_str()]);
    words.extend::<[&std::ffi::OsStr; 2]>(["work".as_ref(), name.as_ref()]);
    let exec = Exec::try_parse_from(words).map_err(|e| e.to_string())?;
    // Its exit code is in the report too.
    let _ = ptxsim::exec::run(&exec.arguments);
    let json = std::fs::read(report.path()).map_err(text)?;
    let json: Value = serde_json::from_slice(&json).map_err(|e| format!("no report: {e}"))?;
    let processes = json["processes"].as_array().map_or(&[][..], Vec::as_slice);
    let list = |what: &str| -> Vec<String> {
        let lists = processes.iter().filter_map(|p| p[what].as_array());
        lists.flatten().map(Value::to_string).collect()
    };
    let leaks = list("leaks");
    match (json["exit_code"] == 0, leaks.is_empty(), processes.len()) {
        (_, _, 0) => Err("no process used the driver".into()),
        (false, ..) => Err("wrong numbers or findings, see above".into()),
        (_, false, _) => Err(format!("device memory leaked: {}", leaks.join(", "))),
        _ => Ok(()),
    }
}
