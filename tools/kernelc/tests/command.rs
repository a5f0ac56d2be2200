//! The command from outside: what it refuses, what it makes, what it calls drift.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn kernelc(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_kernelc"))
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(workspace())
        .output()
        .unwrap();
    (
        status.code(),
        String::from_utf8([stdout, stderr].concat()).unwrap(),
    )
}

/// Whether tests that need the compiler can run: it is installed, or this is CI, where it must be.
fn compiler_is_here() -> bool {
    let here = workspace()
        .join("target/kernelc/kernelc-versions")
        .is_file()
        || std::env::var_os("CI").is_some();
    if !here {
        eprintln!(
            "SKIPPED: no compiler in target/kernelc; run `cargo run -p kernelc` once to install it"
        );
    }
    here
}

#[test]
fn committed_ptx_matches_its_sources_by_digest() {
    let (code, said) = kernelc(&["--check", "--offline"], &[]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn committed_ptx_is_what_the_compiler_gives() {
    if compiler_is_here() {
        // From another directory and in another locale: neither may enter the text.
        let elsewhere = tempfile::tempdir().unwrap();
        let root = workspace().canonicalize().unwrap();
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(env!("CARGO_BIN_EXE_kernelc"))
            .args(["--check", "--venv"])
            .arg(root.join("target/kernelc"))
            .arg(root.join("tools/ptxsim/tests/kernels"))
            .current_dir(elsewhere.path())
            .env("LC_ALL", "tr_TR.UTF-8")
            .output()
            .unwrap();
        let said = String::from_utf8([stdout, stderr].concat()).unwrap();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.is_empty(), "{said}");
    }
}

#[test]
fn a_missing_interpreter_or_package_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("k.cu"),
        "extern \"C\" __global__ void k() {}\n",
    )
    .unwrap();
    let dir_name = dir.path().to_str().unwrap();
    let venv = dir.path().join("venv");
    let arguments = ["--venv", venv.to_str().unwrap(), dir_name];

    let (code, said) = kernelc(
        &arguments,
        &[("KERNELC_PYTHON", "python-that-is-not-there")],
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("python-that-is-not-there") && said.contains("apt install python3-venv"),
        "{said}"
    );

    let (code, said) = kernelc(
        &arguments,
        &[("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", dir_name)],
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("nvidia-cuda-nvrtc-cu12==12.0.140") && said.contains("PIP_INDEX_URL"),
        "{said}"
    );

    let (code, said) = kernelc(&["no/such/dir"], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no/such/dir"), "{said}");
}

#[test]
fn what_the_compiler_or_the_assembler_refuses_is_named() {
    if !compiler_is_here() {
        return;
    }
    let refused = |name: &str, text: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), text).unwrap();
        let (code, said) = kernelc(&[dir.path().to_str().unwrap()], &[]);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            !dir.path()
                .join("ptx")
                .join(name)
                .with_extension("ptx")
                .exists()
        );
        said
    };
    let said = refused(
        "syntax.cu",
        "extern \"C\" __global__ void k() { no_such_thing(); }\n",
    );
    assert!(
        said.contains("syntax.cu(1)") && said.contains("no_such_thing"),
        "{said}"
    );

    let said = refused(
        "inline.cu",
        "extern \"C\" __global__ void k() { asm volatile(\"mma.nonsense;\"); }\n",
    );
    assert!(
        said.contains("inline.ptx: ptxas refused it for sm_80"),
        "{said}"
    );

    let spilling = "extern \"C\" __global__ void __launch_bounds__(1024, 2) k(float *x) {\n\
        float v[64];\n#pragma unroll\nfor (int i = 0; i < 64; ++i) v[i] = x[i * 1024 + threadIdx.x];\n\
        for (int r = 0; r < 9; ++r)\n#pragma unroll\nfor (int i = 0; i < 64; ++i) v[i] = v[i] * v[(i * 7 + 1) % 64] + x[r];\n\
        #pragma unroll\nfor (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = v[i];\n}\n";
    let said = refused("spilling.cu", spilling);
    assert!(
        said.contains("spilling.cu") && said.contains("kernel `k` spills registers"),
        "{said}"
    );
}

#[test]
fn drift_is_found_and_named_and_a_second_run_mends_it() {
    if !compiler_is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let dir_name = dir.path().to_str().unwrap();
    let build = || kernelc(&[dir_name], &[]);
    let check = |offline: bool| match offline {
        true => kernelc(&["--check", "--offline", dir_name], &[]),
        false => kernelc(&["--check", dir_name], &[]),
    };
    fs::write(
        path("one.cu"),
        "#include \"h.cuh\"\nextern \"C\" __global__ void one(float *x) { x[0] = H; }\n",
    )
    .unwrap();
    fs::write(
        path("two.cu"),
        "// kernelc: compute_90a\nextern \"C\" __global__ void two(int *x) { x[0] = 2; }\n",
    )
    .unwrap();
    fs::write(path("h.cuh"), "#define H 1.0f\n").unwrap();

    let (code, said) = check(true);
    assert!(
        code == Some(1) && said.contains("one.ptx: missing"),
        "{said}"
    );
    let (code, said) = build();
    assert!(
        code == Some(0) && said.contains("one.ptx") && said.contains("two.ptx"),
        "{said}"
    );
    assert!(
        fs::read_to_string(path("ptx/two.ptx"))
            .unwrap()
            .contains(".target sm_90a")
    );
    let snapshot = fs::read_to_string(path("ptx/resources.txt")).unwrap();
    assert!(
        snapshot.contains("sm_100") && snapshot.contains("sm_90a"),
        "{snapshot}"
    );
    assert_eq!(check(true), (Some(0), String::new()));
    assert_eq!(check(false), (Some(0), String::new()));
    assert_eq!(build(), (Some(0), String::new()), "nothing is made twice");

    // A header changed: only the file that includes it is stale.
    fs::write(path("h.cuh"), "#define H 2.0f\n").unwrap();
    let (code, said) = check(true);
    assert!(
        code == Some(1) && said.contains("one.ptx: older than one.cu"),
        "{said}"
    );
    assert!(!said.contains("two.ptx"), "{said}");
    let (_, said) = build();
    assert!(
        said.contains("compiled") && !said.contains("two.ptx"),
        "{said}"
    );

    // The PTX was edited by hand.
    let ptx = fs::read_to_string(path("ptx/one.ptx")).unwrap();
    fs::write(
        path("ptx/one.ptx"),
        ptx.replace(".version 8.0", ".version 8.1"),
    )
    .unwrap();
    let (code, said) = check(true);
    assert!(
        code == Some(1) && said.contains("one.ptx: edited by hand"),
        "{said}"
    );
    build();
    assert_eq!(
        fs::read_to_string(path("ptx/one.ptx")).unwrap(),
        ptx,
        "the same bytes again"
    );

    // A source is gone: its PTX is drift, and the next run removes it.
    fs::remove_file(path("two.cu")).unwrap();
    let (code, said) = check(true);
    assert!(
        code == Some(1) && said.contains("two.ptx: its .cu file is gone"),
        "{said}"
    );
    build();
    assert!(!path("ptx/two.ptx").exists());
    assert_eq!(check(true), (Some(0), String::new()));
}
