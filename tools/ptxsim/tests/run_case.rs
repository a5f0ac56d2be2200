//! `ptxsim run` from the outside: outputs, report, exit status.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::kernel;

/// y[i] = a * x[i] + i for i below n, one thread each.
fn scale() -> String {
    kernel(
        2,
        "ld.param.f32 %f1, [p2]; ld.param.u32 %r1, [p3]; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x;\n\
         mad.lo.u32 %r2, %r2, %r3, %r0; setp.ge.u32 %p1, %r2, %r1; @%p1 ret;\n\
         mul.wide.u32 %rd2, %r2, 4; add.s64 %rd3, %rd0, %rd2; add.s64 %rd4, %rd1, %rd2;\n\
         ld.global.f32 %f2, [%rd3]; cvt.rn.f32.u32 %f3, %r2; fma.rn.f32 %f2, %f2, %f1, %f3; st.global.f32 [%rd4], %f2;",
    )
    .replace(".param .u64 p1)", ".param .u64 p1, .param .f32 p2, .param .u32 p3)")
}

fn case(n: u32) -> String {
    format!(
        "ptx = \"scale.ptx\"\nkernel = \"t\"\ngrid = 4\nblock = [32]\n\
         args = [\"x\", \"y\", {{ f32 = 2.5 }}, {{ u32 = {n} }}]\n\
         [[buffer]]\nname = \"x\"\ndtype = \"f32\"\nlength = 100\nfill = \"iota\"\nstart = 1.0\nstep = 2.0\n\
         [[buffer]]\nname = \"y\"\ndtype = \"f32\"\nlength = 100\nfill = \"poison\"\noutput = true\n"
    )
}

fn run(folder: &Path, case: &str, more: &[&str]) -> Output {
    std::fs::write(folder.join("scale.ptx"), scale()).expect("writes");
    std::fs::write(folder.join("case.toml"), case).expect("writes");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptxsim"));
    command
        .arg("run")
        .arg(folder.join("case.toml"))
        .args(more)
        .output()
        .expect("runs")
}

fn report(folder: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(folder.join("case.report.json")).expect("a report");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_clean_case_writes_outputs_and_counters() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(
        folder.path(),
        &case(100),
        &["--shuffle", "3", "--chip", "A100"],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let file = std::fs::read(folder.path().join("y.npy")).expect("y.npy");
    let data = &file[file.len() - 400..];
    for (i, chunk) in data.chunks_exact(4).enumerate() {
        let value = f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        assert_eq!(value, 2.5 * (1.0 + 2.0 * i as f32) + i as f32);
    }
    let report = report(folder.path());
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(0));
    assert_eq!(report["counters"]["flops"]["f32"], 200);
    assert_eq!(report["counters"]["load_sectors_unique"], 13);
    assert_eq!(report["roofline"]["chip"], "A100");
}

#[test]
fn findings_make_status_1_and_stand_in_the_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &case(101), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(folder.path());
    let finding = &report["findings"][0];
    assert_eq!(finding["kind"], "out-of-bounds");
    assert_eq!(finding["allocation"], "x");
    assert_eq!(finding["offset"], 400);
    assert_eq!(finding["block"], serde_json::json!([3, 0, 0]));
    assert_eq!(finding["thread"], serde_json::json!([4, 0, 0]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("x + 400 bytes"), "{text}");
}

#[test]
fn what_cannot_run_is_status_2_with_one_clear_line() {
    let good = case(100);
    for (from, to, says) in [
        ("scale.ptx", "none.ptx", "none.ptx"),
        ("kernel = \"t\"", "kernel = \"u\"", "no kernel \"u\""),
        ("grid = 4", "grid = 0", "must not be zero"),
        ("block = [32]", "block = [4096]", "4096 threads"),
        ("{ f32 = 2.5 }, ", "", "takes 4"),
        ("{ f32 = 2.5 }", "{ f64 = 2.5 }", "8 bytes"),
        ("{ f32 = 2.5 }", "2.5", "needs a type"),
        ("\"x\", \"y\"", "\"x\", \"z\"", "no buffer \"z\""),
        (
            "length = 100\nfill = \"iota\"",
            "length = 999999999999999999\nfill = \"iota\"",
            "too large",
        ),
        (
            "length = 100\nfill = \"iota\"",
            "length = 4294967295\nfill = \"iota\"",
            "length 4294967295 is too large: 8589934592 bytes",
        ),
        ("grid = 4", "grid = 4\nregisters = 4294967295", "1 to 255"),
        (
            "grid = 4",
            "grid = 2147483647\nlaunch_limit = 5000",
            "launch limit: all warps executed 5000 instructions",
        ),
        ("fill = \"iota\"", "fill = \"random\"", "random"),
        ("length = 100", "lenght = 100", "lenght"),
        ("dtype = \"f32\"", "dtype = \"f33\"", "f33"),
        ("grid", "= grid", "case.toml"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let output = run(folder.path(), &good.replacen(from, to, 1), &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{to}: {output:?}");
        assert!(
            text.starts_with("error: ") && text.contains(says),
            "{to}: {text}"
        );
    }
}

#[test]
fn buffers_go_out_and_come_in_as_npy() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = case(100).replace("step = 2.0\n", "step = 2.0\noutput = \"in.npy\"\n");
    assert_eq!(run(folder.path(), &first, &[]).status.code(), Some(0));
    let y = std::fs::read(folder.path().join("y.npy")).expect("y");
    let second = case(100).replace(
        "fill = \"iota\"\nstart = 1.0\nstep = 2.0\n",
        "fill = \"npy\"\nfile = \"in.npy\"\n",
    );
    assert_eq!(run(folder.path(), &second, &[]).status.code(), Some(0));
    assert_eq!(std::fs::read(folder.path().join("y.npy")).expect("y"), y);
    let wrong = second.replacen("dtype = \"f32\"", "dtype = \"f64\"", 1);
    assert_eq!(run(folder.path(), &wrong, &[]).status.code(), Some(2));
}
