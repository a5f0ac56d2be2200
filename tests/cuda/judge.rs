//! Runs the checks under the simulator and judges numbers, findings, leaks, and whether what ran is what was planned.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Parser;
use serde_json::Value;

use crate::{binary, checks};

/// Seeds of the schedules under which everything runs: warps and blocks in another order each time.
const SHUFFLES: [&str; 2] = ["1", "2"];

/// The environment variable that names the file for the planned launches.
pub const PLANNED: &str = "VAEBM_PLANNED_LAUNCHES";

#[derive(Parser)]
struct Exec {
    #[command(flatten)]
    arguments: ptxsim::exec::Arguments,
}

/// What a program did under the simulator.
pub struct Ran {
    /// Its exit code; 1 also where it succeeded and there were findings.
    pub code: i64,
    /// One report for each process that used the driver.
    pub processes: Vec<Value>,
}

impl Ran {
    /// Entries of a list in all reports, such as `findings`.
    pub fn list(&self, what: &str) -> Vec<&Value> {
        let lists = self.processes.iter().filter_map(|p| p[what].as_array());
        lists.flatten().collect()
    }
}

/// Runs a program under the simulator.
pub fn exec(options: &[&str], command: &[OsString]) -> Result<Ran, String> {
    let text = |e: std::io::Error| e.to_string();
    let report = tempfile::NamedTempFile::new().map_err(text)?;
    let mut words: Vec<&OsStr> = vec!["exec".as_ref(), "--quiet".as_ref()];
    words.extend(options.iter().map(AsRef::<OsStr>::as_ref));
    words.extend([
        "--report".as_ref(),
        report.path().as_os_str(),
        "--".as_ref(),
    ]);
    words.extend(command.iter().map(OsString::as_os_str));
    let exec = Exec::try_parse_from(words).map_err(|e| e.to_string())?;
    // Its exit code is in the report too.
    let _ = ptxsim::exec::run(&exec.arguments);
    let json = std::fs::read(report.path()).map_err(text)?;
    let json: Value = serde_json::from_slice(&json).map_err(|e| format!("no report: {e}"))?;
    Ok(Ran {
        code: json["exit_code"]
            .as_i64()
            .ok_or("a report without exit code")?,
        processes: json["processes"].as_array().cloned().unwrap_or_default(),
    })
}

/// Judges all checks whose name contains `part`; whether any failed.
pub fn judge(part: Option<&String>) -> bool {
    let wanted = |name: &str| part.is_none_or(|p| name.contains(p.as_str()));
    let (mut ran, mut failed) = (0, 0);
    let mut tell = |name: &str, outcome: Result<(), String>| {
        ran += 1;
        match outcome {
            Ok(()) => println!("{name}: ok"),
            Err(error) => {
                failed += 1;
                println!("{name}: FAILED: {error}");
            }
        }
    };
    for check in checks().iter().filter(|c| wanted(&c.name)) {
        // Variants are kernels of the cases in another geometry, of which there are many: one schedule has to do.
        let schedules = match check.name.starts_with("variants/") {
            true => &SHUFFLES[..1],
            false => &SHUFFLES[..],
        };
        for shuffle in schedules {
            let name = format!("{}, schedule {shuffle}", check.name);
            tell(&name, under_simulator(&check.name, shuffle));
        }
    }
    for run in binary::all().iter().filter(|r| wanted(r.name)) {
        tell(run.name, run.judge());
    }
    println!("{ran} checks, {failed} failed");
    ran == 0 || failed > 0
}

fn under_simulator(name: &str, shuffle: &str) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    let planned = tempfile::NamedTempFile::new().map_err(text)?;
    // `env` hands the variable to the worker alone.
    let variable = |path: &Path| {
        let mut word = OsString::from(format!("{PLANNED}="));
        word.push(path);
        word
    };
    let own = std::env::current_exe().map_err(text)?;
    let command = [
        "env".into(),
        variable(planned.path()),
        own.into_os_string(),
        "work".into(),
        name.into(),
    ];
    // Late work shows a missing wait: the second schedule runs that way.
    let late = (shuffle == SHUFFLES[1]).then_some("--late");
    let options: Vec<&str> = ["--shuffle", shuffle].into_iter().chain(late).collect();
    let ran = exec(&options, &command)?;
    let leaks = ran.list("leaks");
    if ran.processes.is_empty() {
        return Err("no process used the driver".into());
    }
    if ran.code != 0 {
        return Err("wrong numbers or findings, see above".into());
    }
    if !leaks.is_empty() {
        return Err(format!("device memory leaked: {leaks:?}"));
    }
    let planned = std::fs::read(planned.path()).map_err(text)?;
    let planned: BTreeMap<String, u64> =
        serde_json::from_slice(&planned).map_err(|e| format!("planned launches: {e}"))?;
    let mut launched = BTreeMap::new();
    for kernel in ran.list("kernels") {
        let name = kernel["name"].as_str().unwrap_or_default().to_owned();
        *launched.entry(name).or_default() += kernel["launches"].as_u64().unwrap_or(0);
    }
    match planned == launched {
        true => Ok(()),
        false => Err(format!("planned were {planned:?}, launched {launched:?}")),
    }
}
