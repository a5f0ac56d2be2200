//! `ptxsim run --gpu`, with the stand-in posing as the driver: the same files as from the simulator, and one clear error
//! for everything that a driver can refuse. And all types and fills of the case file, both ways.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::kernel;

/// b[i] = a[i] for i below n bytes, by one block of any size.
fn copy() -> String {
    kernel(
        2,
        "ld.param.u32 %r1, [p2]; mov.u32 %r2, %ntid.x;\nLOOP: setp.ge.u32 %p1, %r0, %r1; @%p1 bra DONE;\n\
         cvt.u64.u32 %rd2, %r0; add.s64 %rd3, %rd0, %rd2; add.s64 %rd4, %rd1, %rd2; ld.global.u8 %h1, [%rd3];\n\
         st.global.u8 [%rd4], %h1; add.u32 %r0, %r0, %r2; bra LOOP;\nDONE:",
    )
    .replace(".param .u64 p1)", ".param .u64 p1, .param .u32 p2)")
}

const TYPES: [(&str, usize); 12] = [
    ("f32", 4),
    ("f64", 8),
    ("bf16", 2),
    ("f16", 2),
    ("u8", 1),
    ("s8", 1),
    ("u16", 2),
    ("s16", 2),
    ("s32", 4),
    ("u32", 4),
    ("s64", 8),
    ("u64", 8),
];

fn case(dtype: &str, bytes: usize, fill: &str) -> String {
    let n = 7 * bytes;
    format!(
        "ptx = \"copy.ptx\"\ngrid = 1\nblock = 5\nargs = [\"a\", \"b\", {{ u32 = {n} }}]\n\
         [[buffer]]\nname = \"a\"\ndtype = \"{dtype}\"\nlength = 7\n{fill}\noutput = \"first.npy\"\n\
         [[buffer]]\nname = \"b\"\ndtype = \"{dtype}\"\nlength = 7\nfill = \"poison\"\noutput = true\n"
    )
}

fn write(folder: &Path, case: &str) {
    std::fs::write(folder.join("copy.ptx"), copy()).expect("writes");
    std::fs::write(folder.join("case.toml"), case).expect("writes");
}

/// `ptxsim run` plain, or under `ptxsim exec` with these options.
fn run(folder: &Path, exec: Option<&[&str]>, more: &[&str]) -> Output {
    let ptxsim = env!("CARGO_BIN_EXE_ptxsim");
    let mut command = Command::new(ptxsim);
    if let Some(options) = exec {
        command
            .arg("exec")
            .args(options)
            .args(["--quiet", "--", ptxsim]);
    }
    command
        .arg("run")
        .arg(folder.join("case.toml"))
        .args(more)
        .output()
        .expect("runs")
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Type string and data of an .npy file.
fn npy(path: &Path) -> (String, Vec<u8>) {
    let file = bytes(path);
    let length = usize::from(u16::from_le_bytes([file[8], file[9]]));
    let header = String::from_utf8(file[10..10 + length].to_vec()).expect("text");
    let descr = header.split('\'').nth(3).expect("descr").to_owned();
    (descr, file[10 + length..].to_vec())
}

#[test]
fn every_type_and_fill_is_the_same_on_the_driver() {
    for (dtype, size) in TYPES {
        for fill in [
            "",
            "fill = \"zeros\"",
            "fill = \"list\"\nvalues = [1, 2, 3, 5, 8, 13, 21]",
            "fill = \"iota\"\nstart = 3\nstep = 2",
            "fill = \"uniform\"\nlow = 1\nhigh = 50\nseed = 4",
            "fill = \"normal\"\nmean = 60\nstd = 5\nseed = 9",
            "fill = \"npy\"\nfile = \"first.npy\"",
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let folder = folder.path();
            if fill.contains("npy") {
                write(folder, &case(dtype, size, "fill = \"iota\"\nstart = 1"));
                assert_eq!(run(folder, None, &[]).status.code(), Some(0));
            }
            write(folder, &case(dtype, size, fill));
            let plain = run(folder, None, &[]);
            assert_eq!(plain.status.code(), Some(0), "{dtype} {fill}: {plain:?}");
            let (a, b) = (
                bytes(&folder.join("first.npy")),
                bytes(&folder.join("b.npy")),
            );
            assert_eq!(a, b, "{dtype} {fill}");
            let (_, data) = npy(&folder.join("b.npy"));
            assert_eq!(data.len(), 7 * size);
            if fill.contains("list") && matches!(dtype, "u8" | "s16" | "u32" | "s64") {
                for (element, want) in data.chunks_exact(size).zip([1, 2, 3, 5, 8, 13, 21_u8]) {
                    assert!(element[0] == want && element[1..].iter().all(|byte| *byte == 0));
                }
            }
            // One pass on the driver per type is enough; the bytes go the same way for all fills.
            if fill.contains("normal") {
                std::fs::remove_file(folder.join("b.npy")).expect("removes");
                let gpu = run(folder, Some(&[]), &["--gpu"]);
                assert_eq!(gpu.status.code(), Some(0), "{dtype} {fill}: {gpu:?}");
                assert_eq!(bytes(&folder.join("b.npy")), b, "{dtype} {fill}");
            }
        }
    }
}

#[test]
fn poison_is_a_pattern_on_the_driver_and_a_finding_on_the_simulator() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(folder, &case("f32", 4, "fill = \"poison\""));
    let plain = run(folder, None, &[]);
    assert_eq!(plain.status.code(), Some(1), "{plain:?}");
    let on_simulator = npy(&folder.join("b.npy"));
    assert_eq!(on_simulator, ("<f4".to_owned(), vec![0xff; 28]));
    // A driver does not tell that the bytes were never meant to be read.
    let gpu = run(folder, Some(&[]), &["--gpu"]);
    assert_eq!(gpu.status.code(), Some(0), "{gpu:?}");
    assert_eq!(npy(&folder.join("b.npy")), on_simulator);
}

#[test]
fn the_report_says_which_device_and_driver_and_compares() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(folder, &case("f32", 4, "fill = \"normal\""));
    let gpu = run(
        folder,
        Some(&["--chip", "A100"]),
        &["--gpu", "--compare", "--shuffle", "3"],
    );
    let said = String::from_utf8_lossy(&gpu.stdout).into_owned();
    assert_eq!(gpu.status.code(), Some(0), "{gpu:?}");
    assert!(said.contains("b: equal in all 7 elements"), "{said}");
    assert!(said.contains("t: clean"), "{said}");
    let text = String::from_utf8(bytes(&folder.join("case.report.json"))).expect("text");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(
        report["device"]
            .as_str()
            .is_some_and(|name| name.contains("A100")),
        "{report}"
    );
    assert!(
        report["driver"]
            .as_str()
            .is_some_and(|name| name.starts_with("CUDA 1")),
        "{report}"
    );
    assert_eq!(report["comparison"]["differences"][1]["differing"], 0);
    assert_eq!(
        report["comparison"]["simulator"]["device"],
        "ptxsim as H200"
    );
    assert!(
        report["outputs"]["b"]
            .as_str()
            .is_some_and(|path| path.ends_with("b.npy"))
    );

    let alone = run(folder, None, &["--compare"]);
    assert_eq!(alone.status.code(), Some(2), "{alone:?}");
}

#[test]
fn what_a_driver_refuses_is_one_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(folder, &case("f32", 4, ""));
    for (options, says) in [
        (&["--fail", "no-device"][..], "CUDA_ERROR_NO_DEVICE"),
        (
            &["--fail", "old-driver"],
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        ),
        (&["--fail", "ptx-rejected"], "CUDA_ERROR_INVALID_PTX"),
        (
            &["--fail", "oom-at=2"],
            "buffer b of 28 bytes: CUDA_ERROR_OUT_OF_MEMORY",
        ),
        (
            &["--fail", "launch-fails=t"],
            "the launch of t: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        ),
        (
            &["--fail", "async-error=t"],
            "running t: CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
    ] {
        let output = run(folder, Some(options), &["--gpu"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{options:?}: {output:?}");
        let errors: Vec<&str> = text.lines().filter(|line| line.contains("error")).collect();
        assert!(
            errors
                .iter()
                .any(|line| line.starts_with("error: ") && line.contains(says)),
            "{text}"
        );
        assert!(!text.contains("panicked"), "{text}");
    }
    // SAFETY: looks whether a driver can be opened; nothing of it is called.
    if unsafe { libloading::Library::new("libcuda.so.1") }.is_err() {
        let output = run(folder, None, &["--gpu"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.starts_with("error: no CUDA driver"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
