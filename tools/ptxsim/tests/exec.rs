//! `ptxsim exec` from outside: the cudarc program of the examples under it, its refusals, its reports and exit codes.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

/// The example, which `cargo test` builds beside the tests.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/cuda_program");
    assert!(
        path.is_file(),
        "{} is not built: `cargo build -p ptxsim --example cuda_program`",
        path.display()
    );
    path
}

/// What `ptxsim exec` did.
struct Run {
    code: Option<i32>,
    said: String,
    report: Value,
}

impl Run {
    /// The report of the only process.
    fn process(&self) -> &Value {
        assert_eq!(
            self.report["processes"].as_array().map(Vec::len),
            Some(1),
            "{}",
            self.said
        );
        &self.report["processes"][0]
    }

    fn kernel(&self, name: &str) -> &Value {
        let kernels = self.process()["kernels"].as_array().unwrap();
        kernels
            .iter()
            .find(|kernel| kernel["name"] == name)
            .unwrap_or_else(|| panic!("{name} did not run"))
    }
}

fn exec(options: &[&str], command: &[&str]) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_ptxsim"))
        .arg("exec")
        .args(options)
        .arg("--report")
        .arg(&path)
        .arg("--")
        .args(command)
        .output()
        .unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    let report =
        fs::read(&path).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    Run {
        code: status.code(),
        said,
        report,
    }
}

fn run_program(options: &[&str], scenario: &str) -> Run {
    exec(options, &[program().to_str().unwrap(), scenario])
}

fn passes(options: &[&str], scenario: &str) -> Run {
    let run = run_program(options, scenario);
    assert_eq!(run.code, Some(0), "{options:?} {scenario}: {}", run.said);
    assert!(
        run.said.contains(&format!("{scenario}: passed")),
        "{}",
        run.said
    );
    run
}

#[test]
fn every_function_that_cudarc_may_look_up_is_there() {
    // cudarc panics when a symbol is missing. The list is of all functions that the driver module of cudarc 0.19 names
    // outside of its raw bindings.
    let own = std::env::current_exe().unwrap();
    let path = own.with_file_name("libptxsim_cuda.so");
    // SAFETY: the stand-in has no initialisers; nothing of it is called.
    let library = unsafe { libloading::Library::new(&path) }.unwrap();
    for name in include_str!("cudarc_symbols.txt").lines() {
        // SAFETY: the symbol is looked up and not called.
        let symbol = unsafe { library.get::<*const ()>(name.as_bytes()) };
        assert!(symbol.is_ok(), "{name} is not in {}", path.display());
    }
}

#[test]
fn the_program_passes_on_every_chip_and_shuffled() {
    for options in [
        &["--chip", "H200"][..],
        &["--chip", "A100"],
        &["--chip", "rtx-4090"],
        &["--late"],
        &["--shuffle", "11"],
    ] {
        let run = passes(options, "all");
        assert!(run.said.contains("no findings"), "{}", run.said);
        assert_eq!(run.process()["findings"], Value::Array(Vec::new()));
        assert_eq!(
            run.process()["leaks"],
            Value::Array(Vec::new()),
            "{}",
            run.said
        );
    }
}

#[test]
fn the_report_says_which_kernels_ran_and_what_they_cost() {
    let run = passes(&[], "all");
    // The capture has two launches and is replayed three times; three more go by the raw calls, and 20 by four threads.
    let reduce = run.kernel("reduce_atomic_f32");
    assert_eq!(
        (&reduce["launches"], &reduce["from_graphs"]),
        (&29.into(), &6.into())
    );
    assert_eq!(run.process()["graph_launches"], 5);
    let gemm = run.kernel("gemm_f32");
    assert_eq!(
        (&gemm["registers"], &gemm["registers_from_ptxas"]),
        (&48.into(), &true.into())
    );
    // Four blocks of 256 threads do 16 elements each over 48 steps (45, padded), two FLOPs a step. The launch of the error
    // tests has a depth of 0 and does none.
    assert_eq!(gemm["launches"], 2);
    assert_eq!(gemm["counters"]["flops"]["f32"], 4 * 256 * 16 * 48 * 2);
    assert_eq!(run.report["exit_code"], 0);
    // Both ends of an event pair and the bytes copied are the program's; the roofline is the report's.
    assert!(gemm["roofline"]["compute"].as_f64().unwrap() > 0.0);
    for part in [
        "gemm_f32: 2 launches",
        "48 registers (ptxas)",
        "coalescing",
        "on H200 at least",
    ] {
        assert!(run.said.contains(part), "{part:?} not in\n{}", run.said);
    }
}

#[test]
fn everything_can_be_refused() {
    for (fail, scenario) in [
        ("no-device", "no-device"),
        ("old-driver", "old-driver"),
        ("ptx-rejected", "ptx-rejected"),
        ("oom-at=3", "oom-at"),
        ("oom-bytes=1000000", "oom-bytes"),
        ("launch-fails=reduce_atomic_f32:2", "launch-fails"),
        ("async-error=reduce_atomic_f32:2", "async-error"),
    ] {
        let run = passes(&["--fail", fail], scenario);
        if fail == "no-device" {
            assert!(run.said.contains("no process initialised"), "{}", run.said);
        } else {
            assert!(
                run.said.contains("note: "),
                "{fail} left no note: {}",
                run.said
            );
        }
        // Without the refusal the scenario must fail: it would pass for the wrong reason otherwise.
        assert_eq!(
            run_program(&[], scenario).code,
            Some(3),
            "{scenario} without --fail"
        );
    }
    passes(&[], "undeclared-clusters");
    passes(&["--instruction-limit", "20"], "endless");
}

#[test]
fn findings_are_printed_and_fail_a_program_that_succeeded() {
    let run = run_program(&[], "tail_block_bug");
    assert_eq!(run.code, Some(1), "{}", run.said);
    assert!(run.said.contains("tail_block_bug: passed"), "{}", run.said);
    let line = run
        .said
        .lines()
        .find(|line| line.contains("FINDING"))
        .expect("no finding was printed");
    for part in [
        "tail_block_bug",
        "out-of-bounds",
        "planted_memory.ptx:",
        "planted_memory.cu:",
        "allocation 1 (380 bytes",
    ] {
        assert!(line.contains(part), "{part:?} not in {line}");
    }
    let findings = run.process()["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .all(|finding| finding["kind"] == "out-of-bounds"
                && finding["kernel"] == "tail_block_bug")
    );
    assert_eq!(run.report["exit_code"], 1);

    let quiet = run_program(&["--quiet"], "tail_block_bug");
    assert!(
        quiet.said.contains("FINDING") && !quiet.said.contains("registers"),
        "{}",
        quiet.said
    );
    let clean = run_program(&[], "tail_block_ok");
    assert_eq!(clean.code, Some(0), "{}", clean.said);
}

#[test]
fn late_work_shows_a_missing_wait() {
    passes(&[], "missing-wait");
    let run = run_program(&["--late"], "missing-wait");
    assert_eq!(run.code, Some(3), "{}", run.said);
    assert!(
        run.said.contains("the copy had not been made yet: 0"),
        "{}",
        run.said
    );
    let run = passes(
        &["--late", "--fail", "async-error=reduce_atomic_f32:2"],
        "async-error",
    );
    assert!(
        run.said.contains("launch 2 of reduce_atomic_f32"),
        "{}",
        run.said
    );
}

#[test]
fn leaks_are_told_and_change_no_exit_code() {
    let run = passes(&["--quiet"], "leak");
    assert!(
        run.said
            .contains("leak: allocation 1 (1234 bytes, cuMemAllocAsync)"),
        "{}",
        run.said
    );
    assert_eq!(run.process()["leaks"][0]["bytes"], 1234);
}

#[test]
fn exit_codes_of_the_program_and_of_wrong_calls() {
    let run = exec(&[], &["sh", "-c", "exit 7"]);
    assert_eq!(
        (run.code, &run.report["exit_code"]),
        (Some(7), &7.into()),
        "{}",
        run.said
    );
    assert!(
        run.said.contains("no process initialised the CUDA driver"),
        "{}",
        run.said
    );
    let run = exec(&[], &["sh", "-c", "kill -9 $$"]);
    assert_eq!(run.code, Some(137), "{}", run.said);
    let run = exec(&[], &["no-such-program-anywhere"]);
    assert!(
        run.code == Some(2) && run.said.contains("no-such-program-anywhere"),
        "{}",
        run.said
    );
    let run = exec(&["--chip", "Voodoo2"], &["true"]);
    assert!(
        run.code == Some(2) && run.said.contains("no chip `Voodoo2`") && run.said.contains("H200"),
        "{}",
        run.said
    );
    let run = exec(&["--fail", "oom-at=x"], &["true"]);
    assert!(
        run.code == Some(2) && run.said.contains("oom-at=N"),
        "{}",
        run.said
    );
}
