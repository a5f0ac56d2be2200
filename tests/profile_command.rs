//! `vaebm profile` and the capture window of `vaebm bench` through the binary: on the cpu, and on the stand-in for the driver.

mod tiny;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::Parser;
use serde_json::Value;

#[derive(Parser)]
struct Exec {
    #[command(flatten)]
    arguments: ptxsim::exec::Arguments,
}

fn vaebm(words: &[&OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vaebm"))
        .args(words)
        .output()
        .expect("the binary starts")
}

/// The words of a command line; paths are taken as they are.
macro_rules! words {
    ($($word:expr),* $(,)?) => { &[$(OsStr::new($word)),*] };
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn succeeds(words: &[&OsStr]) -> String {
    let output = vaebm(words);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn fails(words: &[&OsStr], with: &[&str]) {
    let output = vaebm(words);
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    for part in with {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Runs the binary on the stand-in, without a finding; its report.
fn on_the_stand_in(folder: &Path, words: &[&OsStr]) -> (PathBuf, Value) {
    let report = folder.join("counts.json");
    let own: [OsString; 6] = [
        "exec".into(),
        "--quiet".into(),
        "--report".into(),
        report.clone().into(),
        "--".into(),
        env!("CARGO_BIN_EXE_vaebm").into(),
    ];
    let all = own
        .iter()
        .map(OsString::as_os_str)
        .chain(words.iter().copied());
    let _ = ptxsim::exec::run(&Exec::try_parse_from(all).expect("words of exec").arguments);
    let json: Value = serde_json::from_slice(&std::fs::read(&report).expect("a report")).unwrap();
    assert_eq!(json["exit_code"], 0, "{json:#}");
    (report, json["processes"][0].clone())
}

/// A folder with a tiny model's configuration.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.toml");
    tiny::write_config(&path, &tiny::config(&folder.path().join("run")));
    (folder, path)
}

fn is_plot(path: &Path, dots: usize) {
    let svg = std::fs::read_to_string(path).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
        "{svg}"
    );
    assert!(svg.matches("<circle").count() >= dots, "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn a_plan_is_drawn_without_a_gpu() {
    let (folder, config) = folder();
    let plot = folder.path().join("plot.svg");
    succeeds(words![
        "profile",
        "--config",
        &config,
        "--device",
        "cuda",
        "--precision",
        "bf16",
        "--roofline",
        &plot
    ]);
    is_plot(&plot, 5);
}

#[test]
fn a_step_is_measured_and_what_ran_is_told_from_its_counters() {
    let (folder, config) = folder();
    let [plot, trace, counted] =
        ["plot.svg", "trace.json", "counted.svg"].map(|n| folder.path().join(n));
    let (report, process) = on_the_stand_in(
        folder.path(),
        words![
            "profile",
            "--config",
            &config,
            "--measure",
            "--device",
            "cuda",
            "--precision",
            "bf16",
            "--batch",
            "1",
            "--threads",
            "1",
            "--roofline",
            &plot,
            "--trace",
            &trace,
        ],
    );
    is_plot(&plot, 5);
    let trace: Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > 20);
    // Ranges: the program's runs, and within those that are timed the nodes with their part of the network.
    let ranges = process["ranges"].as_object().expect("ranges");
    assert!(ranges.contains_key("sample/langevin"), "{ranges:?}");
    assert!(
        ranges.keys().any(|r| r.ends_with(" residual_cell_fprop")),
        "{ranges:?}"
    );

    let text = succeeds(words![
        "profile",
        "--config",
        &config,
        "--counters",
        &report,
        "--roofline",
        &counted
    ]);
    for kernel in process["kernels"].as_array().unwrap() {
        let name = kernel["name"].as_str().unwrap();
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name} is not in {text}"
        );
    }
    is_plot(&counted, 5);
    let json = succeeds(words![
        "profile",
        "--config",
        &config,
        "--counters",
        &report,
        "--json"
    ]);
    let json: Value = serde_json::from_str(&json).unwrap();
    for kernel in json["kernels"].as_array().unwrap() {
        let seconds = kernel["seconds"].as_f64().unwrap();
        assert!(seconds > 0.0 && seconds < 1.0, "{kernel}");
    }
}

/// The launches that a report counts within the window of so many steps.
fn within(steps: &str) -> u64 {
    let (folder, config) = folder();
    let (_, process) = on_the_stand_in(
        folder.path(),
        words![
            "bench",
            "--config",
            &config,
            "--device",
            "cuda",
            "--batch",
            "1",
            "--threads",
            "1",
            "--what",
            "langevin",
            "--capture-from",
            "2",
            "--capture-steps",
            steps,
        ],
    );
    process["profiled_launches"].as_u64().unwrap()
}

#[test]
fn a_profiler_sees_the_steps_of_its_window_alone() {
    let (one, three) = (within("1"), within("3"));
    assert!(
        one > 20 && three == 3 * one,
        "{one} launches in a step, {three} in three"
    );
}

#[test]
fn what_cannot_be_told_is_refused_by_name() {
    let (folder, config) = folder();
    let other = folder.path().join("other.json");
    std::fs::write(&other, "{}").unwrap();
    fails(
        words!["profile", "toy", "--counters", &other],
        &["other.json", "ptxsim exec --report"],
    );
    fails(
        words!["profile", "toy", "--counters", "nowhere.json"],
        &["nowhere.json"],
    );
    fails(
        words!["profile", "toy", "--trace", "t.json"],
        &["--measure"],
    );
    fails(
        words!["profile", "toy", "--measure", "--device", "cpu"],
        &["--gpu", "bench --profile"],
    );
    fails(
        words![
            "profile",
            "--config",
            &config,
            "--roofline",
            "no/such/folder/plot.svg"
        ],
        &["no/such/folder/plot.svg"],
    );
    let bench = |steps: &'static str| {
        vaebm(words![
            "bench",
            "--config",
            &config,
            "--device",
            "cpu",
            "--what",
            "langevin",
            "--capture-from",
            "0",
            "--capture-steps",
            steps,
        ])
    };
    let output = bench("1");
    assert!(
        !output.status.success() && said(&output).contains("--device cuda"),
        "{}",
        said(&output)
    );
}
